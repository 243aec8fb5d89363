"""The GPT against transformers' GPT-2, its task on small texts, and the n-gram model that it has to beat."""

from __future__ import annotations

import itertools
from collections import Counter
from math import cos, exp, log, pi

import pytest
import torch
from lightning_fabric import Fabric
from torch import nn

from aida_bench.models.gpt import Gpt
from aida_bench.recipes import PRESETS
from aida_bench.storage.run import Run
from aida_bench.tasks import create_task
from aida_bench.tasks.metrics.kneser_ney import KneserNey
from aida_bench.tasks.text import gpt
from aida_bench.tasks.text.gpt import SotuGpt
from aida_bench.training.loop import train

SIZE = {"context": 8, "layers": 2, "dim": 12, "heads": 3}


def model_of(dropout: float = 0.0) -> Gpt:
    torch.manual_seed(0)
    return Gpt(11, **SIZE, dropout=dropout).double()


def test_model_is_gpt2():
    transformers = pytest.importorskip("transformers")
    model, tokens = model_of(), torch.randint(11, (3, 8))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    config = transformers.GPT2Config(
        vocab_size=11, n_positions=8, n_embd=12, n_layer=2, n_head=3, activation_function="gelu",
        attn_pdrop=0, embd_pdrop=0, resid_pdrop=0,
    )  # fmt: skip
    reference = transformers.GPT2LMHeadModel(config).double()
    names = {
        "tokens": "wte", "positions": "wpe", "norm": "ln_f", "blocks": "h", "attention_norm": "ln_1",
        "mlp_norm": "ln_2", "query_key_value": "attn.c_attn", "out": "attn.c_proj", "up": "mlp.c_fc",
        "down": "mlp.c_proj",
    }  # fmt: skip
    state = {}
    for name, value in model.state_dict().items():
        theirs = ".".join(names.get(part, part) for part in name.split("."))
        # transformers keeps these matrices as inputs x outputs.
        state[f"transformer.{theirs}"] = value.t() if value.ndim == 2 and ".h." in f".{theirs}" else value
    state["lm_head.weight"] = state["transformer.wte.weight"]
    reference.load_state_dict(state)
    torch.testing.assert_close(model(tokens), reference(tokens).logits, rtol=0, atol=1e-12)
    torch.testing.assert_close(model(tokens[:, :5]), model(tokens)[:, :5], rtol=0, atol=1e-12)


def test_no_token_sees_a_later_one():
    model, tokens = model_of(), torch.randint(11, (1, 8))
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 11
    differs = (model(tokens) - model(changed)).abs().amax(-1)[0] > 1e-9
    assert differs.tolist() == [False] * 5 + [True] * 3


def test_number_of_parameters_and_their_spread():
    model = Gpt(1000, context=64, layers=3, dim=96, heads=4, dropout=0.0)
    # 12 dim² + 13 dim a layer, two of the last norm, tokens and positions.
    assert sum(p.numel() for p in model.parameters()) == 3 * (12 * 96**2 + 13 * 96) + (2 + 1000 + 64) * 96
    ends = torch.cat(
        [p.flatten() for n, p in model.named_parameters() if n.endswith(("out.weight", "down.weight"))]
    )
    assert model.tokens.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert ends.std().item() == pytest.approx(0.02 / 6**0.5, rel=0.02)
    assert not any(p.any() for n, p in model.named_parameters() if n.endswith("bias"))


def test_dropout_is_of_training_alone():
    model, tokens = model_of(dropout=0.5), torch.randint(11, (2, 8))
    assert not torch.equal(model(tokens), model(tokens))
    assert torch.equal(model.eval()(tokens), model_of().eval()(tokens))


TEXT = "The Congress shall have power to lay and collect taxes, and to pay the debts. "


@pytest.fixture
def small_gpt(monkeypatch):
    texts = {"train": [TEXT * 20, TEXT.upper() * 20], "validation": [TEXT[::-1] * 4], "test": [TEXT * 4]}
    monkeypatch.setattr(gpt, "load_sotu_texts", lambda: texts)

    def build(**options) -> SotuGpt:
        return SotuGpt(**{"model": "gpt", "batch_size": 4, "vocabulary": 270, "context": 16, **options})

    return build


def test_texts_are_cut_and_their_characters_counted(small_gpt):
    task = small_gpt(address_length=100, eval_length=30, vocabulary=259)
    assert task.texts["train"] == [(TEXT * 20)[:100].lower()] * 2
    # Single bytes: each character, begin, end, and the first space, which the reversed text has already.
    assert {split: len(data) for split, data in task.data.items()} == {
        "train": 2 * 103, "validation": 32, "test": 33
    }  # fmt: skip
    assert task.bits(log(2), "test") == pytest.approx(33 / 30, rel=1e-12)


def test_batches_are_windows_of_the_text_and_depend_on_the_generator_alone(small_gpt):
    task = small_gpt(epoch_batches=30)
    text = task.data["train"].tolist()
    windows = {tuple(text[i : i + 17]) for i in range(len(text) - 16)}

    def epoch(seed: int) -> list[torch.Tensor]:
        torch.manual_seed(torch.seed())
        return list(task.train_batches(torch.Generator().manual_seed(seed), "cpu"))

    first, again, other = epoch(1), epoch(1), epoch(2)
    assert [tuple(batch.shape) for batch in first] == [(4, 17)] * 30
    assert {tuple(window) for batch in first for window in batch.tolist()} <= windows
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0])


def test_an_epoch_is_as_many_batches_as_asked_for_or_as_read_the_text_once(small_gpt):
    once = len(small_gpt().data["train"]) // (4 * 16)
    lengths = [small_gpt(epoch_batches=e, limit_batches=m).batches_per_epoch()
               for e, m in ((None, None), (500, None), (500, 7), (3, 7), (None, 10_000))]  # fmt: skip
    assert lengths == [once, 500, 7, 3, once]


def test_evaluation_tells_each_piece_of_whole_windows_once(small_gpt):
    task = small_gpt()
    model = task.build_model().double().eval()
    data, found = task.data["validation"], task.evaluate(model, "validation", "cpu")
    whole, total = (len(data) - 1) // 16 * 16, 0.0
    for start in range(0, whole, 16):
        p = model(data[None, start : start + 16]).softmax(-1)[0]
        total -= sum(log(p[i, data[start + i + 1]].item()) for i in range(16))
    assert found["loss"] == pytest.approx(total / whole, rel=1e-6)
    assert found["bits_per_character"] == pytest.approx(task.bits(total / whole, "validation"), rel=1e-6)


def test_learning_rate_rises_and_falls_over_any_length_of_run(small_gpt):
    task = small_gpt(warmup=0.1, lr_end=0.2)
    for steps, epochs in ((10, 10), (10, 30)):
        total = steps * epochs
        factors = [task.lr_factor(step, steps, epochs) for step in range(total)]
        assert factors[: total // 10] == pytest.approx([10 * (s + 1) / total for s in range(total // 10)])
        half = total // 10 + 9 * total // 20
        assert factors[half] == pytest.approx(0.2 + 0.8 * 0.5)
        assert factors[-1] == pytest.approx(0.2 + 0.4 * (1 + cos(pi * (1 - 10 / 9 / total))))
    assert small_gpt(warmup=0.0).lr_factor(0, 10, 1) == 1


def test_learns_a_text_by_heart(small_gpt, tmp_path):
    task = small_gpt(epoch_batches=30)
    run, fabric = Run(tmp_path, {"seed": 0}), Fabric(accelerator="cpu", devices=1)
    assert (
        train(task, run, fabric=fabric, optimizer="adamw", settings={"lr": 3e-3}, seed=0, epochs=4)
        == "finished"
    )
    rows = [row for row in run.rows() if row["kind"] == "epoch"]
    assert rows[0]["test_bits_per_character"] > 0.8
    assert rows[-1]["test_bits_per_character"] < 0.5 < rows[-1]["validation_bits_per_character"]


def reference_probability(train: list[int], history: tuple[int, ...], symbols: int) -> list[float]:
    """Kneser-Ney by the definition, from dictionaries, of each next symbol."""
    order = len(history) + 1
    kinds = {n: {tuple(train[i : i + n]) for i in range(len(train) - n + 1)} for n in range(1, order + 1)}
    counts: dict[int, Counter] = {
        order: Counter(tuple(train[i : i + order]) for i in range(len(train) - order + 1))
    }
    # Both ends are those of the highest order's n-grams, so that each lower one is the end of one of them.
    whole = {order: set(counts[order])}
    for n in range(order - 1, 0, -1):
        whole[n] = {gram[1:] for gram in whole[n + 1]}
        assert whole[n] <= kinds[n]
        counts[n] = Counter(gram[1:] for gram in whole[n + 1])
    p = [1 / symbols] * symbols
    for n in range(1, order + 1):
        h = history[len(history) - n + 1 :]
        spread = Counter(counts[n].values())
        d = spread[1] / (spread[1] + 2 * spread[2]) if spread[1] and spread[2] else 0.5
        of = {w: c for (*before, w), c in counts[n].items() if tuple(before) == h}
        if of:
            total = sum(of.values())
            p = [(max(of.get(w, 0) - d, 0) + d * len(of) * p[w]) / total for w in range(symbols)]
    return p


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_kneser_ney_is_its_definition(order):
    generator = torch.Generator().manual_seed(0)
    # Symbol 4 is never seen in training; many histories are not either.
    train_text = torch.randint(4, (60,), generator=generator) * torch.randint(2, (60,), generator=generator)
    text = torch.randint(5, (80,), generator=generator)
    model, total = KneserNey(train_text, order, 5), 0.0
    for i in range(order - 1, 80):
        history = tuple(text[i - order + 1 : i].tolist())
        p = reference_probability(train_text.tolist(), history, 5)
        assert sum(p) == pytest.approx(1, abs=1e-12)
        # One symbol after a whole history: this probability alone.
        assert model.loss(text[i - order + 1 : i + 1]) == pytest.approx(-log(p[text[i]]), rel=1e-12)
        total -= log(p[text[i]])
    assert model.loss(text) == pytest.approx(total / (81 - order), rel=1e-12)


def test_kneser_ney_by_hand():
    # abab: bigrams ab 2, ba 1, D = 1/3; a and b follow one symbol each, so p_1 = 1/2 whatever D is there.
    model = KneserNey(torch.tensor([0, 1, 0, 1]), 2, 2)
    seen = {(a, b): exp(-model.loss(torch.tensor([a, b]))) for a, b in itertools.product((0, 1), repeat=2)}
    assert seen == pytest.approx({(0, 1): 11 / 12, (0, 0): 1 / 12, (1, 0): 5 / 6, (1, 1): 1 / 6})


def test_kneser_ney_with_numbers_too_large():
    with pytest.raises(ValueError, match="9-grams of 1000 symbols"):
        KneserNey(torch.arange(20), 9, 1000)


def test_yardsticks_are_of_the_same_text(small_gpt):
    bits = small_gpt().ngram_bits("test")
    assert 0 < bits["pieces"] < bits["characters"] < 0.5
    assert min(small_gpt().ngram_bits("validation").values()) > 3


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.parametrize("optimizer", ["adamw", "aida"])
def test_study_preset_beats_a_5_gram(tmp_path, optimizer):
    """A minute or two of training, in bits a character, on the same text as the 5-gram of its characters."""
    preset = PRESETS["gpt"]["study"]
    task = create_task("gpt", model="gpt", batch_size=preset.batch_size, **preset.options)
    yardsticks = {split: task.ngram_bits(split)["characters"] for split in task.splits}
    torch.set_num_threads(1)
    run, fabric = Run(tmp_path, {"seed": 0}), Fabric(accelerator="cpu", devices=1)
    settings = dict(preset.recipes[optimizer].settings)
    train(task, run, fabric=fabric, optimizer=optimizer, settings=settings, seed=0, epochs=preset.epochs)
    last = [row for row in run.rows() if row["kind"] == "epoch"][-1]
    for split, yardstick in yardsticks.items():
        assert last[f"{split}_bits_per_character"] < 0.99 * yardstick, (last, yardsticks)
