"""The loop: several parts, clipping, schedules, an epoch's end, and every rival's state."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from aida_bench.baselines import RIVALS, build_optimizer
from aida_bench.errors import UserError
from aida_bench.recipes.digits import DIGITS
from aida_bench.storage.files import read_json_lines, replaced
from aida_bench.storage.run import Run
from aida_bench.tasks.digits import Digits
from aida_bench.training.fabric import make_fabric
from aida_bench.training.loop import NAMES, train
from helpers.bench.runs import Killed


class Game:
    """A critic takes three steps for one of the generator, on its gradient's norm too, as WGAN-GP does."""

    name, parts, splits, clip_norm = "game", ("generator", "critic"), ("validation",), None

    def build_model(self):
        return nn.ModuleDict(
            {"generator": nn.Linear(2, 1), "critic": nn.Sequential(nn.Linear(1, 4), nn.Tanh())}
        )

    def batches_per_epoch(self):
        return 6

    def train_batches(self, generator, device):
        for _ in range(6):
            yield torch.randn(8, 2, generator=generator)

    def losses(self, model, batches):
        for number, noise in enumerate(batches):
            before = {name: [p.detach().clone() for p in model[name].parameters()] for name in self.parts}
            made = model["generator"](noise).detach().requires_grad_()
            score = model["critic"](made).mean(1)
            (slope,) = torch.autograd.grad(score.sum(), made, create_graph=True)
            yield "critic", score.mean() + 10 * ((slope.norm(dim=1) - 1) ** 2).mean()
            self.moved(model, before, generator=False, critic=True)
            if number % 3 == 2:
                yield "generator", -model["critic"](model["generator"](noise)).mean()
                self.moved(model, before, generator=True, critic=True)

    def moved(self, model, before, **expected):
        for name, whether in expected.items():
            same = all(map(torch.equal, before[name], model[name].parameters()))
            assert same is not whether, name

    def evaluate(self, model, split, device):
        assert not model.training
        return {"score": model["critic"](model["generator"](torch.ones(1, 2))).mean().item()}

    def end_epoch(self, model, epoch, epochs, folder, device):
        with replaced(folder / f"samples-{epoch}.txt") as beside:
            beside.write_text(str(epoch))
        return {"validation_last": float(epoch)} if epoch == epochs else {}

    def lr_factor(self, step, steps_per_epoch, epochs):
        return 0.9**step


def run(
    task, folder: Path, optimizer: str = "aida", *, epochs: int = 2, on_batch=lambda *_: None, **settings
) -> list:
    torch.set_num_threads(1)
    given = dict(optimizer=optimizer, settings={"lr": 1e-2, **settings}, seed=1, epochs=epochs)
    train(task, Run(folder, given), fabric=make_fabric("cpu", "32"), on_batch=on_batch, **given)
    return read_json_lines(folder / "rows.jsonl")


def test_parts_have_steps_of_their_own(tmp_path):
    rows = run(Game(), tmp_path)
    epochs = [row for row in rows if row["kind"] == "epoch"]
    assert [set(row) - {"kind", "epoch", "lr"} for row in epochs] == [
        {"train_critic_loss", "train_generator_loss", "validation_score", *more}
        for more in ([], ["validation_last"])
    ]
    assert [row["lr"] for row in epochs] == pytest.approx([1e-2, 1e-2 * 0.9**6], rel=1e-12)
    assert [row["parameter"] for row in rows if row["kind"] == "stepsize"][:2] == [
        "generator.weight", "critic.0.weight",
    ]  # fmt: skip
    assert sorted(path.name for path in tmp_path.glob("samples*")) == ["samples-1.txt", "samples-2.txt"]


def test_parts_are_resumed(tmp_path):
    def kill(epoch, batch):
        if (epoch, batch) == (3, 2):
            raise Killed

    undisturbed = run(Game(), tmp_path / "calm", epochs=4)
    with pytest.raises(Killed):
        run(Game(), tmp_path / "shaken", epochs=4, on_batch=kill)
    assert run(Game(), tmp_path / "shaken", epochs=4) == undisturbed


def test_gradients_are_clipped_to_the_norm(tmp_path, monkeypatch):
    task = Digits(model="mlp", batch_size=32, limit_batches=1)
    norms: list[float] = []
    real = torch.optim.SGD.step

    def step(self, *arguments):
        grads = [p.grad for group in self.param_groups for p in group["params"]]
        norms.append(torch.cat([g.flatten() for g in grads]).norm().item())
        return real(self, *arguments)

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    for clip in (None, 0.01):
        task.clip_norm = clip
        run(task, tmp_path / str(clip), "sgd", epochs=1)
    assert norms[0] > 0.1
    assert norms[1] == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize("optimizer", DIGITS)
def test_every_rival_trains_and_resumes_bitwise(tmp_path, optimizer):
    def kill(epoch, batch):
        if epoch == 3:
            raise Killed

    task = Digits(model="mlp", batch_size=64, limit_batches=8)
    settings = {**DIGITS[optimizer].settings, "lr": min(DIGITS[optimizer].settings["lr"], 1e-2)}
    rows = run(task, tmp_path / "calm", optimizer, epochs=5, **settings)
    losses = [row["train_loss"] for row in rows if row["kind"] == "epoch"]
    assert losses[-1] < 0.99 * losses[0]  # measured: 0.958 the slowest, 1e-4 between instruction sets
    with pytest.raises(Killed):
        run(task, tmp_path / "shaken", optimizer, epochs=5, on_batch=kill, **settings)
    assert run(task, tmp_path / "shaken", optimizer, epochs=5, **settings) == rows


def layer(name: str, g: list[float], **settings) -> tuple[np.ndarray, np.ndarray]:
    """A parameter [2, -1] before and after one step of `name` with the gradient g."""
    model = nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[2.0, -1.0]]))
    model.weight.grad = torch.tensor([g], dtype=torch.float64)
    before = model.weight.detach().numpy().copy().ravel()
    build_optimizer(name, model, **settings).step()
    return before, model.weight.detach().numpy().ravel()


def test_first_steps_of_rivals_by_hand():
    """Decay is coupled, g + wd*p: it turns a zero gradient into one, and is not a factor on p."""
    g, wd = np.array([0.3, 0.5]), 0.1
    p, after = layer("msvag", [0.3, 0.5], lr=0.1, weight_decay=wd)
    np.testing.assert_allclose(after, p - 0.1 * (g + wd * p), rtol=1e-12)
    p, after = layer("fromage", [0.3, 0.5], lr=0.1)
    step = 0.1 * g * np.linalg.norm(p) / np.linalg.norm(g)
    np.testing.assert_allclose(after, (p - step) / np.sqrt(1 + 0.1**2), rtol=1e-12)
    p, after = layer("yogi", [0.3, 0.5], lr=0.1, eps=1e-3, weight_decay=wd)
    d = g + wd * p
    m, v = 0.9e-6 + 0.1 * d, 1e-6 - 1e-3 * np.sign(1e-6 - d**2) * d**2
    np.testing.assert_allclose(after, p - 0.1 * (m / 0.1) / (np.sqrt(v / 1e-3) + 1e-3), rtol=1e-12)
    p, after = layer("adabound", [0.3, 0.5], lr=0.1, final_lr=0.1, gamma=1e-3, weight_decay=wd)
    d = g + wd * p
    raw = 0.1 * np.sqrt(1e-3) / 0.1 / (np.sqrt(1e-3) * np.abs(d) + 1e-8)
    low, high = 0.1 * (1 - 1 / 1.001), 0.1 * (1 + 1 / 0.001)
    np.testing.assert_allclose(after, p - np.clip(raw, low, high) * 0.1 * d, rtol=1e-12)
    p, after = layer("radam", [0.0, 0.0], lr=0.1, weight_decay=wd, decoupled_weight_decay=True)
    np.testing.assert_allclose(after, (1 - 0.1 * wd) * p, rtol=1e-12)


def test_aida_k1_is_aida_with_one_projection():
    settings = dict(lr=0.1, eps=1e-8, weight_decay=0.1)
    for K, other in ((1, "aida-k1"), (2, "aida")):
        assert (
            layer("aida", [0.3, 0.5], K=K, **settings)[1]
            == layer(other, [0.3, 0.5], **{**settings, "K": K})[1]
        ).all()


class Counting(torch.optim.SGD):
    """Counts its steps in what numpy makes of a sum."""

    def step(self, closure=None):
        super().step(closure)
        for group in self.param_groups:
            group["seen"] = np.float64(group.get("seen", 0)) + 0.1
            group["lr"] *= 1 / (1 + group["seen"])


class KeepsAnObject(torch.optim.SGD):
    def step(self, closure=None):
        super().step(closure)
        self.param_groups[0]["seen"] = Fraction(1, 3)


def killed_in_epoch_3(epoch, batch):
    if epoch == 3:
        raise Killed


def test_an_optimizer_that_keeps_numpy_s_numbers_is_resumed(tmp_path, monkeypatch):
    monkeypatch.setitem(RIVALS, "counting", Counting)
    undisturbed = run(Game(), tmp_path / "calm", "counting", epochs=4)
    with pytest.raises(Killed):
        run(Game(), tmp_path / "shaken", "counting", epochs=4, on_batch=killed_in_epoch_3)
    assert run(Game(), tmp_path / "shaken", "counting", epochs=4) == undisturbed


def test_an_optimizer_whose_state_could_not_be_read_back_is_refused_in_its_first_epoch(tmp_path, monkeypatch):
    monkeypatch.setitem(RIVALS, "objects", KeepsAnObject)
    with pytest.raises(UserError, match=r"generator\.optimizer\.param_groups\.0\.seen is of type Fraction"):
        run(Game(), tmp_path, "objects")
    assert not list(tmp_path.glob("*.pt"))


class Measured(Game):
    def __init__(self, measured, last=None):
        self.measured, self.last = measured, last

    def evaluate(self, model, split, device):
        return self.measured

    def end_epoch(self, *_):
        return self.last


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), torch.tensor(0.5), torch.tensor([0.5])])
def test_measures_of_numpy_and_torch_are_numbers(tmp_path, number):
    rows = run(Measured({"score": number, "hits": 3}), tmp_path / "run")
    (first, _) = (row for row in rows if row["kind"] == "epoch")
    assert (first["validation_score"], first["validation_hits"]) == (0.5, 3)
    assert type(first["validation_hits"]) is int  # as earlier rows have it
    ends = run(Measured({"score": number}, {"validation_last": number}), tmp_path / "ends")
    assert ends[0]["validation_last"] == 0.5


@pytest.mark.parametrize(
    ("measured", "last", "said"),
    [
        ({"score": torch.ones(2)}, None, r"evaluate\('validation'\) of the task game gives score tensor"),
        ({"score": "high"}, None, "gives score 'high': a measure must be one number"),
        ({"score": None}, None, "gives score None: a measure must be one number"),
        (0.5, None, r"gives 0\.5: it must return a dictionary of numbers by name"),
        (None, None, "gives None: it must return a dictionary"),
        ({"score": 1.0}, {"validation_last": []}, r"end_epoch of the task game gives validation_last \[\]"),
        ({"score": 1.0}, 3, "end_epoch of the task game gives 3: it must return a dictionary"),
        (
            {"score": 1.0},
            {"validation_score": 2.0},
            "end_epoch of the task game gives validation_score, as some",
        ),
        *(({}, {name: 1.0}, f"end_epoch of the task game gives {name}, as some") for name in NAMES),
    ],
)
def test_what_is_no_measure_is_one_sentence(tmp_path, measured, last, said):
    with pytest.raises(UserError, match=said):
        run(Measured(measured, last), tmp_path)


def test_a_measure_of_a_training_loss_s_name_is_refused(tmp_path):
    """It would be in the loss's place in every row, without a word."""
    task = Measured({"critic_loss": 1.0})
    task.splits = ("train", "validation")
    with pytest.raises(
        UserError, match=r"evaluate\('train'\) of the task game gives train_critic_loss, as some"
    ):
        run(task, tmp_path)


class TensorRate(torch.optim.SGD):
    """With a rate as torch's own capturable optimizers may have it."""

    def __init__(self, params, lr):
        super().__init__(params, lr=torch.tensor(lr, dtype=torch.float64))


def test_a_learning_rate_that_is_a_tensor_is_a_number_in_the_rows(tmp_path, monkeypatch):
    monkeypatch.setitem(RIVALS, "tensors", TensorRate)
    undisturbed = run(Game(), tmp_path / "calm", "tensors", epochs=4)
    assert [row["lr"] for row in undisturbed] == [1e-2 * 0.9 ** (6 * epoch) for epoch in range(4)]
    with pytest.raises(Killed):
        run(Game(), tmp_path / "shaken", "tensors", epochs=4, on_batch=killed_in_epoch_3)
    assert run(Game(), tmp_path / "shaken", "tensors", epochs=4) == undisturbed


@pytest.mark.parametrize("factor", [float("inf"), float("nan")])
def test_a_learning_rate_that_is_not_finite_is_one_sentence(tmp_path, factor):
    task = Game()
    task.lr_factor = lambda *_: factor
    with pytest.raises(
        UserError, match=f"lr_factor of the task game makes the learning rate {factor}: it must"
    ):
        run(task, tmp_path)


class Idle(Game):
    def losses(self, model, batches):
        for _ in batches:
            yield from ()


def test_an_epoch_without_a_loss_is_an_epoch(tmp_path):
    assert [row["epoch"] for row in run(Idle(), tmp_path, "sgd") if row["kind"] == "epoch"] == [1, 2]
    assert [row["step_ms"] for row in read_json_lines(tmp_path / "timings.jsonl")] == [0.0, 0.0]
