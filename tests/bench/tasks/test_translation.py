"""Translation: the Transformer, beam search against enumeration, word pieces, and a run that learns."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from aida_bench.models.transformer import Attention, Transformer, sinusoids
from aida_bench.storage.run import Run
from aida_bench.tasks.text import translation
from aida_bench.tasks.text.beam import beam_search
from aida_bench.tasks.text.pieces import BEGIN, END, PADDING, WordPieces
from aida_bench.tasks.text.translation import Translation
from aida_bench.training.loop import train


def transformer(dtype: torch.dtype = torch.float64) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(11, PADDING, layers=2, dim=16, inner=24, heads=4, dropout=0.1, longest=20)
    return model.to(dtype).eval()


@pytest.mark.parametrize("vocabulary", [9_521, 12_345])
def test_published_number_of_parameters(vocabulary):
    with torch.device("meta"):
        model = Transformer(vocabulary, 0, layers=6, dim=512, inner=2048, heads=8, dropout=0.1, longest=10)
    assert sum(p.numel() for p in model.parameters()) == 44_103_680 + 512 * vocabulary


def test_attention_is_torchs():
    torch.manual_seed(0)
    own = Attention(8, 2, 0.0).double()
    reference = nn.MultiheadAttention(8, 2, bias=False, batch_first=True).double()
    reference.in_proj_weight.data = torch.cat([own.query.weight, own.key.weight, own.value.weight])
    reference.out_proj.weight.data = own.out.weight.data
    x, memory = torch.randn(3, 4, 8).double(), torch.randn(3, 5, 8).double()
    allowed = torch.arange(5) < torch.tensor([[5], [2], [3]])
    mixed, _ = reference(x, memory, memory, key_padding_mask=~allowed)
    expected = nn.functional.layer_norm(x + mixed, (8,), eps=1e-6)
    torch.testing.assert_close(own(x, memory, allowed[:, None, None]), expected, rtol=0, atol=1e-14)
    causal = torch.ones(4, 4).triu(1).bool()
    mixed, _ = reference(x, x, x, attn_mask=causal)
    expected = nn.functional.layer_norm(x + mixed, (8,), eps=1e-6)
    torch.testing.assert_close(own(x, x, None), expected, rtol=0, atol=1e-14)


def test_positions():
    table = sinusoids(7, 6)
    for position, column in itertools.product(range(7), range(6)):
        angle = position / 10000 ** (2 * (column // 2) / 6)
        expected = math.cos(angle) if column % 2 else math.sin(angle)
        assert table[position, column].item() == pytest.approx(expected, abs=1e-6)


def test_no_word_sees_a_later_one_and_none_sees_padding():
    model = transformer()
    source, target = torch.randint(3, 11, (2, 5)), torch.randint(3, 11, (2, 6))
    logits = model(source, target)
    later = target.clone()
    later[:, 4] = 13 - later[:, 4]
    changed = (model(source, later) - logits).abs().amax((0, 2))
    assert (changed[:4] < 1e-14).all()
    assert (changed[4:] > 1e-6).all()
    longer = model(nn.functional.pad(source, (0, 3)), nn.functional.pad(target, (0, 2)))[:, :6]
    torch.testing.assert_close(longer, logits, rtol=0, atol=1e-13)
    assert (model(nn.functional.pad(source, (0, 3), value=5), target) - logits).abs().max() > 1e-6


def test_a_step_of_decoding_gives_the_last_words_logits():
    model = transformer()
    source, target = torch.randint(3, 11, (2, 5)), torch.randint(3, 11, (2, 6))
    last = model(source, target, model(source))
    torch.testing.assert_close(last, model(source, target)[:, -1], rtol=0, atol=1e-14)


VOCABULARY, LONGEST = 6, 5


def markov(table: torch.Tensor):
    """Logits that depend on the last two words of a beam."""

    def logits(words: torch.Tensor) -> torch.Tensor:
        before = words[:, -2] if words.shape[1] > 1 else torch.zeros_like(words[:, -1])
        return table[before, words[:, -1]]

    return logits


def enumerate_best(table: torch.Tensor, power: float) -> tuple[float, list[int]]:
    """The best of all sequences that end, or are cut at LONGEST words with the beginning."""
    found, logits = [], markov(table)

    def extend(words: list[int], score: float) -> None:
        if len(words) == LONGEST or words[-1] == END:
            found.append((score / (len(words) - 1) ** power, [w for w in words[1:] if w != END]))
            return
        gains = logits(torch.tensor([words]))[0].log_softmax(0).tolist()
        for word in set(range(VOCABULARY)) - {PADDING}:
            extend([*words, word], score + gains[word])

    extend([BEGIN], 0.0)
    return max(found)


def search(table: torch.Tensor, beams: int, power: float = 1.0) -> list[int]:
    (found,) = beam_search(
        markov(table), 1, beams, begin=BEGIN, end=END, padding=PADDING, longest=LONGEST, device="cpu",
        length_power=power,
    )  # fmt: skip
    return found


def test_wide_beam_search_is_enumeration_and_greedy_is_not():
    greedy_misses = 0
    for seed, power in itertools.product(range(10), (0.6, 1.0)):
        # Hardly any chance for padding, which only the search leaves out of the sum.
        table = 2 * torch.randn(6, 6, 6, generator=torch.Generator().manual_seed(seed))
        table[..., PADDING] = -30.0
        _, best = enumerate_best(table, power)
        assert search(table, 700, power) == best, (seed, power)
        greedy_misses += search(table, 1, power) != best
    assert greedy_misses > 0


def test_sentences_of_a_batch_do_not_disturb_each_other():
    tables = 2 * torch.randn(3, 6, 6, 6, generator=torch.Generator().manual_seed(0))
    each = [search(table, 3) for table in tables]

    def logits(words: torch.Tensor) -> torch.Tensor:
        return torch.cat([markov(table)(part) for table, part in zip(tables, words.chunk(3), strict=True)])

    together = beam_search(logits, 3, 3, begin=BEGIN, end=END, padding=PADDING, longest=LONGEST, device="cpu")
    assert together == each
    assert len(set(map(len, each))) > 1


TEXTS = ("Die Straße war naß.", "Ein Hund und eine Katze.", "A dog and a cat.", "The street was wet.") * 3


def test_pieces_keep_any_text_but_its_case():
    pieces = WordPieces.learn(TEXTS, 300)
    assert len(pieces) == 300
    codes = pieces.encode([*TEXTS, "Ünbekanntes 🙂 \u4e2d!"])
    assert all(code[0] == BEGIN and code[-1] == END and PADDING not in code for code in codes)
    assert pieces.decode(codes) == [text.lower() for text in TEXTS] + ["ünbekanntes 🙂 \u4e2d!"]
    assert len(codes[0]) < len(TEXTS[0])
    assert WordPieces.learn(TEXTS, 300).encode(TEXTS) == codes[:-1]


NOUNS = [("Hund", "dog"), ("Katze", "cat"), ("Maus", "mouse"), ("Vogel", "bird"), ("Fisch", "fish")]
VERBS = [("sieht", "sees"), ("jagt", "hunts"), ("hört", "hears"), ("mag", "likes")]
PAIRS = [
    (f"{v} {a} {b}{' heute' * (i % 3)}?", f"does {A} {V.rstrip('s')} {B}{' today' * (i % 3)}?")
    for i, ((v, V), (a, A), (b, B)) in enumerate(itertools.product(VERBS, NOUNS, NOUNS))
]


CORPUS = {
    "train": [pair for i, pair in enumerate(PAIRS) if i % 10 not in (2, 7)][:75],
    "validation": PAIRS[2::20],
    "test": PAIRS[7::20],
}


@pytest.fixture
def small_translation(monkeypatch):
    monkeypatch.setitem(translation.CORPORA, "small", lambda: CORPUS)

    def build(**options) -> Translation:
        asked = {"model": "transformer2", "batch_size": 8, "corpus": "small", "vocabulary": 320, "dim": 32,
                 "inner": 64, "heads": 4, "warmup": 40, **options}  # fmt: skip
        return Translation(**asked)

    return build


def test_batches_cover_the_data_once_and_are_of_like_length(small_translation):
    task = small_translation()

    def epoch(seed: int):
        return list(task.train_batches(torch.Generator().manual_seed(seed), "cpu"))

    batches, again, other = epoch(0), epoch(0), epoch(1)
    assert len(batches) == task.batches_per_epoch() == 10
    assert all(torch.equal(a[1], b[1]) for a, b in zip(batches, again, strict=True))
    assert any(
        a[1].shape != b[1].shape or not torch.equal(a[1], b[1]) for a, b in zip(batches, other, strict=True)
    )
    seen = [
        tuple(tuple(word for word in row if word != PADDING) for row in pair)
        for source, target in batches
        for pair in zip(source.tolist(), target.tolist(), strict=True)
    ]
    assert sorted(seen) == sorted((tuple(s), tuple(t)) for s, t in task.data["train"])
    padding = sum(int((target == PADDING).sum()) for _, target in batches)
    longest = max(len(target) for _, target in task.data["train"])
    assert padding < 0.3 * sum(longest - len(target) for _, target in task.data["train"])
    assert len({target.shape[1] for _, target in batches[:4]}) > 1


def test_long_sentences_are_not_trained_on(small_translation):
    lengths = [max(len(s), len(t)) for s, t in small_translation().data["train"]]
    limit = sorted(lengths)[40]
    task = small_translation(max_length=limit)
    assert len(task.data["train"]) == sum(length <= limit for length in lengths) < 75
    assert len(task.data["test"]) == 5


def test_published_learning_rate(small_translation):
    task = small_translation(warmup=128_000)
    lr = 2 * 512**-0.5 * 128_000**-0.5
    for n in (1, 1000, 128_000, 500_000):
        expected = 2 * 512**-0.5 * min(n**-0.5, n * 128_000**-1.5)
        assert lr * task.lr_factor(n - 1, 145, 400) == pytest.approx(expected, rel=1e-12)


def test_measures_of_a_uniform_model(small_translation):
    task = small_translation()
    model = task.build_model().eval()
    nn.init.zeros_(model.embedding.weight)
    measures = task.evaluate(model, "test", "cpu")
    assert measures["perplexity"] == pytest.approx(len(task.pieces), rel=1e-5)
    assert measures["token_accuracy"] == 0


def test_learns_sentences_by_heart(small_translation, tmp_path, monkeypatch):
    few = PAIRS[::9]
    monkeypatch.setitem(translation.CORPORA, "small", lambda: dict.fromkeys(CORPUS, few))
    task = small_translation(batch_size=4, dim=64, dropout=0.0)
    run, fabric = Run(tmp_path, {"seed": 0}), Fabric(accelerator="cpu", devices=1)
    settings = {"lr": 5e-3, "betas": (0.9, 0.98), "eps": 1e-9}
    train(task, run, fabric=fabric, optimizer="adam", settings=settings, seed=0, epochs=60)
    rows = [row for row in run.rows() if row["kind"] == "epoch"]
    assert [("test_bleu" in row) for row in rows] == [False] * 59 + [True]
    assert rows[-1]["test_perplexity"] < 4 < 40 < rows[4]["test_perplexity"]
    assert rows[-1]["test_bleu"] > 40 > 10 > task.copy_bleu("test")
    texts = [three.splitlines() for three in (tmp_path / "translations.txt").read_text().split("\n\n")]
    assert [tuple(three[:2]) for three in texts] == few
    assert sum(three[1] == three[2] for three in texts) > 3
