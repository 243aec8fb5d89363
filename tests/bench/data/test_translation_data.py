"""Where the sentences come from: a dictionary's package and Multi30k's files, whole, damaged or missing."""

from __future__ import annotations

import io
import itertools
import json
import lzma
import tarfile

import pytest

from aida_bench.data import de_en, fetch, multi30k
from aida_bench.errors import UserError
from helpers.bench.archives import add, no_download

DICTIONARY = """\
# Ein Kommentar. :: A comment.
Aal {m} [zool.] | Aale {pl} :: eel | eels
gehen {vi} | Ich gehe [ugs.]. | Er ging. :: to go | I  am going. | He{m} went.
Zu viele. | Varianten. :: Too many.
Ja; Doch. | Nein! :: Yes. | No!
Er ging. :: He left.
Er ging. :: He went.
Wer (denn) da? | Wer da? :: Who there? | Who’s there?
klein geschrieben. :: Lower case.
Ohne Ende :: No end.
"""
SENTENCES = [("Ich gehe .", "I am going."), ("Er ging.", "He went."), ("Nein!", "No!"),
             ("Er ging.", "He left."), ("Wer da?", "Who's there?")]  # fmt: skip


def ar_member(name: str, content: bytes) -> bytes:
    head = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
    return head + content + b"\n" * (len(content) % 2)


def deb(text: str) -> bytes:
    tarred = io.BytesIO()
    with tarfile.open(fileobj=tarred, mode="w:xz") as tar:
        add(tar, "./usr/share/doc/trans-de-en/copyright", b"GPL-2+")
        add(tar, "./usr/share/trans/de-en", text.encode())
    control = lzma.compress(b"odd")
    control += b"\0" * (1 - len(control) % 2)
    members = (("debian-binary", b"2.0\n"), ("control.tar.xz", control), ("data.tar.xz", tarred.getvalue()))
    return b"!<arch>\n" + b"".join(ar_member(*member) for member in members)


@pytest.fixture
def put_deb(tmp_path, monkeypatch):
    """Puts a package of given bytes into an otherwise empty cache without a network."""
    monkeypatch.setenv("AIDA_DATA", str(tmp_path))
    monkeypatch.setattr(fetch.DebianPackage, "download", no_download)
    (tmp_path / "de-en").mkdir()

    def put(content: bytes) -> None:
        archive = tmp_path / "de-en" / de_en.PACKAGE.filename
        archive.write_bytes(content)
        small = fetch.DebianPackage("trans-de-en", "1.9-6", archive.name, fetch.sha256(archive))
        monkeypatch.setattr(de_en, "PACKAGE", small)

    return put


def test_sentences_of_the_dictionary(put_deb, monkeypatch):
    put_deb(deb(DICTIONARY))
    with pytest.raises(UserError, match="holds 5 sentences only"):
        de_en.load_de_en()
    monkeypatch.setattr(de_en, "HELD_OUT", 1)
    parts = de_en.load_de_en()
    assert (len(parts["validation"]), len(parts["test"])) == (1, 1)
    found = [pair for part in parts.values() for pair in part]
    assert len(set(found)) == len(found)
    assert set(found) <= set(SENTENCES)
    assert [pair for line in DICTIONARY.splitlines() for pair in de_en.sentences(line)].count(
        SENTENCES[1]
    ) == 2


def test_no_sentence_is_in_two_splits(put_deb, monkeypatch):
    monkeypatch.setattr(de_en, "HELD_OUT", 15)
    lines = [f"Satz {i % 40}. :: Sentence {i % 37}.{'' if i % 2 else '!'}" for i in range(300)]
    put_deb(deb("\n".join(lines)))
    parts = de_en.load_de_en()
    texts = {split: {text.lower() for pair in pairs for text in pair} for split, pairs in parts.items()}
    assert len(parts["validation"]) == len(parts["test"]) == 15
    assert len(parts["train"]) > 20
    for one, other in itertools.combinations(texts.values(), 2):
        assert not one & other


@pytest.mark.parametrize(
    "content",
    [b"not a package", deb(DICTIONARY)[:-40], b"!<arch>\n" + ar_member("debian-binary", b"2.0\n")],
    ids=["other", "truncated", "without data"],
)
def test_damaged_package(put_deb, content):
    put_deb(content)
    with pytest.raises(UserError, match="is not a readable archive"):
        de_en.load_de_en()


def test_package_not_to_be_had(put_deb):
    with pytest.raises(UserError, match=r"no network.*apt-get download trans-de-en=1.9-6"):
        de_en.load_de_en()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub as a folder, with as many pairs as it should have: 4, 2 and 2."""
    monkeypatch.setenv("AIDA_DATA", str(tmp_path / "cache"))
    monkeypatch.setattr(multi30k, "PAIRS", {"train": 4, "validation": 2, "test": 2})
    origin = tmp_path / "hub"
    origin.mkdir()
    for split, name in multi30k.FILES.items():
        records = [{"en": f"{split} {i} \n", "de": f"{split} ä{i}"} for i in range(multi30k.PAIRS[split])]
        (origin / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    asked = []

    def download(name, folder):
        asked.append(name)
        (folder / name).write_bytes((origin / name).read_bytes())
        return folder / name

    monkeypatch.setattr(multi30k, "download", download)
    return origin, asked


def test_multi30k_is_fetched_once(hub, tmp_path):
    for _ in range(2):
        pairs = multi30k.load_multi30k()
        assert pairs["validation"] == [("validation ä0", "validation 0"), ("validation ä1", "validation 1")]
        assert {split: len(part) for split, part in pairs.items()} == multi30k.PAIRS
    assert hub[1] == list(multi30k.FILES.values())
    files = (tmp_path / "cache" / "multi30k").iterdir()
    assert sorted(path.name for path in files) == sorted(multi30k.FILES.values())


def test_multi30k_not_to_be_had(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(multi30k, "download", no_download)
    with pytest.raises(UserError) as error:
        multi30k.load_multi30k()
    for part in ("Multi30k", "(no network)", "train.jsonl, val.jsonl, test.jsonl", str(tmp_path / "cache")):
        assert part in str(error.value)
    assert list((tmp_path / "cache" / "multi30k").iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"en": "a", "de": "b"}\n', "holds 1 pairs, not 4"), ('{"en": "a"}\n', "is not Multi30k's train file"),
     ('{"en": \n', "is not Multi30k's train file")],
)  # fmt: skip
def test_multi30k_of_another_content(hub, content, message):
    (hub[0] / "train.jsonl").write_text(content)
    with pytest.raises(UserError, match=message):
        multi30k.load_multi30k()


@pytest.mark.network
def test_real_sentences():
    parts = de_en.load_de_en()
    assert {split: len(pairs) for split, pairs in parts.items()} == {
        "train": 14_398,
        "validation": 500,
        "test": 500,
    }
