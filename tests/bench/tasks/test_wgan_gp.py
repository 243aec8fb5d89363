"""The WGAN-GP task: its losses, its steps, its samples and its measures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from aida_bench.baselines import build_optimizer
from aida_bench.models.dcgan import Critic, generator, slopes
from aida_bench.report.metrics import key_label, key_measure
from aida_bench.storage.files import read_json_lines
from aida_bench.tasks import cifar10 as cifar10_task
from aida_bench.tasks import wgan_gp
from aida_bench.tasks.wgan_gp import WganGp, framed, grid, resized
from helpers.bench.wgan_gp import Means, alike, load, run

FAMILY = ("adamplus", "adabelief", "ladam", "ladabelief", "laida", "aida")


@pytest.fixture(autouse=True)
def data(monkeypatch):
    monkeypatch.setattr(cifar10_task, "VALIDATION", 20)
    monkeypatch.setattr(wgan_gp, "load_mnist", lambda: load(6, 1))
    monkeypatch.setattr(wgan_gp, "load_cifar10", lambda: load(8, 3))
    torch.set_num_threads(1)


def small(**options) -> WganGp:
    given = dict(model="dcgan", batch_size=8, data="mnist", size=8, width=4, latent=5, extractor=Means())
    return WganGp(**{**given, **options})


def linear_critic(slope: torch.Tensor) -> Critic:
    critic = Critic(1, 8, 2).double()
    critic.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 1, bias=False), nn.Flatten(0)).double()
    with torch.no_grad():
        critic.layers[1].weight.copy_(slope)
    return critic


@pytest.mark.parametrize(("norm", "penalty"), [(3.0, 40.0), (1.0, 0.0), (0.25, 5.625)])
def test_penalty_of_a_linear_critic(norm, penalty):
    """Its slope is its weights' norm c everywhere, so the penalty is 10 (c - 1)^2, its gradient known too."""
    torch.manual_seed(0)
    direction = nn.functional.normalize(torch.randn(1, 64, dtype=torch.float64))
    critic = linear_critic(norm * direction)
    real, made = torch.randn(2, 6, 1, 8, 8, dtype=torch.float64)
    model = {"critic": critic, "generator": lambda latents: made}
    batch = (real, torch.zeros(6, 5), torch.rand(6, 1, 1, 1, dtype=torch.float64))
    part, loss = next(small().losses(model, [batch]))
    between = (made.flatten(1).mean(0) - real.flatten(1).mean(0)) @ (norm * direction[0])
    assert part == "critic"
    assert loss.item() == pytest.approx((between + penalty).item(), rel=1e-12)
    loss.backward()
    wanted = made.flatten(1).mean(0) - real.flatten(1).mean(0) + 20 * (norm - 1) * direction[0]
    torch.testing.assert_close(critic.layers[1].weight.grad[0], wanted, rtol=1e-10, atol=1e-12)


def test_penalty_against_finite_differences():
    """Of second order: the slope's square by its weights, each side in float64."""
    torch.manual_seed(0)
    critic = Critic(2, 8, 2).double()
    for p in critic.parameters():
        p.data.add_(0.3 * torch.randn_like(p))
    images = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    step = 1e-6

    def by_differences() -> torch.Tensor:
        flat = images.flatten(1)
        moved = torch.eye(flat.shape[1], dtype=torch.float64) * step
        with torch.no_grad():
            high, low = (critic((flat[:, None] + s * moved).reshape(-1, 2, 8, 8)) for s in (1, -1))
        return ((high - low) / (2 * step)).reshape(3, -1).norm(dim=1)

    found = critic(images, images)[1]
    torch.testing.assert_close(found, by_differences(), rtol=1e-7, atol=0)
    penalty = (found - 1).square().mean()
    assert penalty.item() > 1e-3
    penalty.backward()
    for p in critic.parameters():
        gradient, p.grad = p.grad, None
        for index in (0, p.numel() // 2, p.numel() - 1):
            values, sides = p.data.view(-1), []
            for sign in (1, -1):
                values[index] += sign * step
                sides.append((slopes(critic, images) - 1).square().mean().item())
                values[index] -= sign * step
            wanted = (sides[0] - sides[1]) / (2 * step)
            assert gradient.view(-1)[index].item() == pytest.approx(wanted, rel=1e-5, abs=1e-9)


def test_a_score_is_of_one_image():
    """What batch normalisation would break, and with it the penalty's meaning."""
    torch.manual_seed(0)
    critic, images = Critic(3, 16, 4).double(), torch.randn(5, 3, 16, 16, dtype=torch.float64)
    alone = torch.cat([critic(image[None]) for image in images])
    torch.testing.assert_close(critic(images), alone, rtol=1e-12, atol=1e-12)


def test_models_are_the_published_ones():
    torch.manual_seed(0)
    make, critic = generator(3, 64, 100, 64), Critic(3, 64, 64)
    assert [sum(p.numel() for p in model.parameters()) for model in (make, critic)] == [3_576_704, 2_765_568]
    images = make(torch.randn(2, 100))
    assert images.shape == (2, 3, 64, 64)
    assert images.abs().max() <= 1
    assert critic(images).shape == (2,)
    for module in [*make.modules(), *critic.modules()]:
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            assert module.bias is None
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05)
    with pytest.raises(ValueError, match="power of two and at least 8, not 28"):
        generator(1, 28, 100, 16)


def test_the_generator_steps_at_the_first_of_every_five_batches():
    task = small()
    model = task.build_model()
    made = {name: build_optimizer("adam", model[name], lr=1e-2) for name in task.parts}
    before = {name: [p.clone() for p in model[name].parameters()] for name in task.parts}
    steps = []
    batches = list(task.train_batches(torch.Generator().manual_seed(0), "cpu")) * 2
    for part, loss in task.losses(model, batches[:11]):
        other = next(name for name in task.parts if name != part)
        made[part].zero_grad()
        loss.backward()
        made[part].step()
        moved = {
            name: not all(map(torch.equal, before[name], model[name].parameters())) for name in task.parts
        }
        assert moved[part]
        assert not (part == "critic" and len(steps) == 0 and moved[other])
        steps.append(part)
    critic, both = ["critic"], ["critic", "generator"]
    assert steps == [*both, *critic * 4, *both, *critic * 4, *both]


def test_batches_are_images_latents_and_weights():
    task = small()
    assert task.batches_per_epoch() == 8
    batches = list(task.train_batches(torch.Generator().manual_seed(0), "cpu"))
    again = list(task.train_batches(torch.Generator().manual_seed(0), "cpu"))
    assert [len(images) for images, _, _ in batches] == [8] * 7 + [4]
    assert all(
        torch.equal(a, b) for x, y in zip(batches, again, strict=True) for a, b in zip(x, y, strict=True)
    )
    images, latents, mix = batches[0]
    assert (images.shape, latents.shape, mix.shape) == ((8, 1, 8, 8), (8, 5), (8, 1, 1, 1))
    assert ((mix >= 0) & (mix < 1)).all()
    assert images.min() == -1
    assert images.max() == pytest.approx(200 / 127.5 - 1, rel=1e-6)


def test_digits_are_framed_and_photographs_resized():
    image = torch.arange(4.0).reshape(1, 1, 2, 2) / 4
    assert framed(image, 4)[0, 0, 1:3, 1:3].equal(image[0, 0])
    assert framed(image, 4).sum() == image.sum() - 12
    bigger = resized(image, 4)
    assert bigger.shape == (1, 1, 4, 4)
    assert bigger.mean().item() == pytest.approx(image.mean().item(), rel=1e-6)
    assert (
        small(data="cifar10", size=16).prepare(torch.full((2, 8, 8, 3), 255, dtype=torch.uint8)).eq(1).all()
    )


def test_rows_and_samples(tmp_path):
    task = small()
    epochs = [row for row in run(task, tmp_path, epochs=6) if row["kind"] == "epoch"]
    losses = {"train_critic_loss", "train_generator_loss"}
    measured = {f"{split}_{m}" for split in ("validation", "test") for m in ("wasserstein", "frechet")}
    assert {*epochs[0]} == {"kind", "epoch", "lr", *losses, *measured}
    assert {row["lr"] for row in epochs} == {1e-3}
    names = sorted(path.name for path in tmp_path.glob("*.png"))
    assert names == ["samples-1.png", "samples-2.png", "samples-4.png", "samples-5.png", "samples-6.png",
                     "samples.png"]  # fmt: skip
    pictures = {name: np.asarray(Image.open(tmp_path / name)) for name in names}
    assert {(picture.shape, str(picture.dtype)) for picture in pictures.values()} == {((64, 64), "uint8")}
    assert (pictures["samples.png"] == pictures["samples-6.png"]).all()
    assert (pictures["samples-1.png"] != pictures["samples-6.png"]).any()


def test_grid_has_its_images_row_by_row():
    images = torch.arange(4.0).div(2).sub(1)[:, None, None, None].expand(4, 3, 2, 2)
    picture = grid(images)
    assert picture.shape == (4, 4, 3)
    assert picture[::2, ::2, 0].tolist() == [[0, 64], [128, 191]]
    assert picture[1::2, 1::2, 2].tolist() == [[0, 64], [128, 191]]


def test_a_resumed_run_is_bitwise_the_same(tmp_path):
    class Killed(BaseException):
        pass

    def kill(epoch, batch):
        if (epoch, batch) == (3, 4):
            raise Killed

    calm = run(small(), tmp_path / "calm", epochs=4)
    with pytest.raises(Killed):
        run(small(), tmp_path / "shaken", epochs=4, on_batch=kill)
    assert run(small(), tmp_path / "shaken", epochs=4) == calm
    pictures = [(tmp_path / name / "samples.png").read_bytes() for name in ("calm", "shaken")]
    assert pictures[0] == pictures[1]
    # One task trains many runs: nothing of the first may be left in it.
    task = small()
    assert run(task, tmp_path / "first", epochs=1) == run(task, tmp_path / "second", epochs=1)


@pytest.mark.parametrize("optimizer", FAMILY)
@pytest.mark.parametrize("weight_decay", [0.0, 1e-4])
def test_the_critic_trains_with_every_member_of_the_family(tmp_path, optimizer, weight_decay):
    rows = run(
        small(),
        tmp_path,
        optimizer,
        epochs=3,
        lr=2e-3,
        betas=(0.5, 0.999),
        eps=1e-12,
        weight_decay=weight_decay,
    )
    epochs = [row for row in rows if row["kind"] == "epoch"]
    losses = [row["train_critic_loss"] for row in epochs]
    assert losses[2] < losses[1] < losses[0]
    assert losses[2] < 0.75 * losses[0]


def test_a_generator_that_breaks_is_a_diverged_run(tmp_path):
    rows = run(small(), tmp_path, "sgd", epochs=3, lr=1e30)
    assert [row["kind"] for row in rows] == ["diverged"]


def test_wasserstein_is_the_difference_of_mean_scores():
    task = small()
    torch.manual_seed(0)
    model = task.build_model().eval()
    with torch.no_grad():
        found = task.evaluate(model, "validation", "cpu")["wasserstein"]
        latents = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
        real = model["critic"](task.prepare(task.data["validation"].pixels)).double().mean()
        made = model["critic"](model["generator"](latents)).double().mean()
    assert found == pytest.approx((real - made).item(), rel=1e-6)


def test_distances_are_taken_when_asked_for(tmp_path):
    rows = run(small(distance_every=2, samples=30), tmp_path, epochs=3)
    taken = [row["epoch"] for row in rows if "validation_frechet" in row]
    assert taken == [2, 3]


def test_yardsticks():
    found = small().yardsticks()
    assert 0 < found["real"] < 0.2 * found["noise"]


def test_published_protocol():
    task = small(data="cifar10", size=16, published=True)
    assert task.splits == ("validation",)
    assert task.data["validation"] is task.data["train"]
    assert len(task.data["train"]) == 80
    assert [len(small().data[split]) for split in ("train", "validation", "test")] == [60, 20, 16]
    assert task.lr_factor(10**6, 10, 10) == 1


@pytest.mark.parametrize("name", ["fid", "frechet_mnist", "frechet_cifar10", "frechet", "wasserstein"])
def test_measures_are_named_and_less_is_better(name):
    measure = key_measure(f"validation_{name}")
    assert measure.name == name
    assert measure.better(-1.0)
    label = key_label(f"validation_{name}", measure)
    assert ("FID" in label) is (name == "fid")
    assert label != f"validation {name}"


TWO = """
import sys, torch
from pathlib import Path
from aida_bench.tasks import cifar10, wgan_gp
from helpers.bench.wgan_gp import alike, load
torch.set_num_threads(1)
cifar10.VALIDATION, wgan_gp.load_mnist = 20, lambda: load(6, 1)
alike(Path(sys.argv[1]), 2, sys.argv[2])
"""


@pytest.mark.distributed
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_give_the_curve_of_one(tmp_path, strategy):
    """Slopes, losses, distances, stepsizes and the picture, with a batch that two processes cannot halve."""
    one = alike(tmp_path / "one")
    script = tmp_path / "two.py"
    script.write_text(TWO)
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script, tmp_path / "two"]
    paths = os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])
    done = subprocess.run(
        [sys.executable, *map(str, command), strategy], env={**os.environ, "PYTHONPATH": paths},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    two = read_json_lines(tmp_path / "two" / "rows.jsonl")
    assert [row["kind"] for row in two] == [row["kind"] for row in one]
    for mine, theirs in zip(two, one, strict=True):
        numbers = {key: value for key, value in theirs.items() if isinstance(value, float)}
        assert {key: mine[key] for key in numbers} == pytest.approx(numbers, rel=1e-4, abs=1e-6)
    pictures = [
        np.asarray(Image.open(tmp_path / name / "samples.png")).astype(int) for name in ("one", "two")
    ]
    assert abs(pictures[0] - pictures[1]).max() <= 1
