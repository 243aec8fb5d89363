"""Models, augmentation, schedules and recipes of the tasks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import aida
from aida_bench.baselines import build_optimizer
from aida_bench.data.images import Images
from aida_bench.models.densenet import densenet121
from aida_bench.models.resnet import resnet18, resnet34
from aida_bench.models.vgg import vgg11
from aida_bench.recipes import PRESETS
from aida_bench.recipes.cifar_settings import CIFAR
from aida_bench.tasks import cifar10 as cifar10_task
from aida_bench.tasks.cifar10 import SCALE, Cifar10, hold_out
from aida_bench.tasks.classification import ImageClassification, crop_and_flip
from aida_bench.tasks.digits import digits_cnn
from aida_bench.tasks.mnist import noisy


@pytest.mark.parametrize(
    ("build", "count", "weights"),
    [
        (vgg11, 9_750_922, 11),
        (resnet34, 21_282_122, 37),
        (densenet121, 6_956_298, 121),
        (resnet18, 11_689_512, 21),
        (digits_cnn, 84_306, 4),
    ],
    ids=["vgg11", "resnet34", "densenet121", "resnet18", "digits"],
)
def test_parameter_counts(build, count, weights):
    model = build()
    assert sum(p.numel() for p in model.parameters()) == count
    assert sum(p.ndim >= 2 for p in model.parameters()) == weights


@pytest.mark.parametrize("build", [vgg11, resnet34, densenet121])
def test_models_take_cifar_images(build):
    assert build()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_vgg_initialisation():
    torch.manual_seed(0)
    convolutions = [m for m in vgg11().modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 8
    for m in convolutions:
        assert m.weight.std().item() == pytest.approx((2 / (9 * m.out_channels)) ** 0.5, rel=0.05)
        assert not m.bias.any()


def reference_crop(image: torch.Tensor, top: int, left: int, mirrored: bool, padding: int) -> torch.Tensor:
    height, width, _ = image.shape
    padded = nn.functional.pad(image, (0, 0, padding, padding, padding, padding))
    crop = padded[top : top + height, left : left + width]
    return crop.flip(1) if mirrored else crop


def test_crop_and_flip_gives_every_crop_and_nothing_else():
    torch.manual_seed(0)
    pixels = torch.randint(1, 256, (4, 4, 3), dtype=torch.uint8)
    possible = {
        reference_crop(pixels, top, left, mirrored, 1).numpy().tobytes()
        for top in range(3)
        for left in range(3)
        for mirrored in (False, True)
    }
    found = crop_and_flip(pixels.expand(2000, 4, 4, 3), 1, torch.Generator().manual_seed(0))
    assert {image.numpy().tobytes() for image in found} == possible
    assert len(possible) == 18


def fake_cifar(n: int = 60) -> tuple[Images, Images]:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (n + 10, 32, 32, 3), generator=generator, dtype=torch.uint8)
    images = Images(pixels, torch.arange(n + 10) % 10)
    return images.take(torch.arange(n)), images.take(torch.arange(n, n + 10))


@pytest.fixture
def cifar(monkeypatch):
    monkeypatch.setattr(cifar10_task, "load_cifar10", fake_cifar)
    monkeypatch.setattr(cifar10_task, "VALIDATION", 20)


def test_held_out_images_are_in_neither_training_nor_test(cifar):
    task = Cifar10(model="vgg11", batch_size=16)
    train, validation, test = (task.data[split] for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (40, 20, 10)
    seen = {image.numpy().tobytes() for part in (train, validation, test) for image in part.pixels}
    assert len(seen) == 70
    again = hold_out(fake_cifar()[0])
    assert torch.equal(again["validation"].pixels, validation.pixels)


def test_published_protocol(cifar):
    task = Cifar10(model="vgg11", batch_size=16, published=True)
    assert task.splits == ("validation",)
    assert (len(task.data["train"]), len(task.data["validation"])) == (60, 10)
    steps = 391
    factors = [task.lr_factor(epoch * steps, steps, 200) for epoch in (0, 99, 100, 159, 160, 199)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01], rel=1e-12)
    assert task.lr_factor(100 * steps - 1, steps, 200) == 1
    ours = Cifar10(model="vgg11", batch_size=16)
    assert [ours.lr_factor(step, 10, 10) for step in (49, 50, 79, 80)] == pytest.approx([1, 0.1, 0.1, 0.01])


def test_batches_cover_the_data_once_and_depend_on_the_generator_alone(cifar):
    task = Cifar10(model="vgg11", batch_size=16)
    assert task.batches_per_epoch() == 3

    def epoch(seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        torch.manual_seed(torch.seed())
        return list(task.train_batches(torch.Generator().manual_seed(seed), "cpu"))

    first, again, other = epoch(1), epoch(1), epoch(2)
    assert [len(labels) for _, labels in first] == [16, 16, 8]
    assert all(
        torch.equal(a, b) for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True)
    )
    assert not torch.equal(first[0][0], other[0][0])
    counts = torch.cat([labels for _, labels in first]).bincount(minlength=10)
    assert torch.equal(counts, task.data["train"].labels.bincount(minlength=10))
    assert first[0][0].is_contiguous(memory_format=torch.channels_last)


def test_an_epoch_of_so_many_batches_draws_from_all_images_and_is_evaluated_on_all(cifar):
    train, test = fake_cifar()
    task = ImageClassification(
        {"train": train, "test": test}, digits_cnn, batch_size=16, scale=SCALE, epoch_batches=2
    )
    generator, seen = torch.Generator().manual_seed(0), set()
    assert task.batches_per_epoch() == 2
    for _ in range(10):
        batches = list(task.train_batches(generator, "cpu"))
        assert [len(labels) for _, labels in batches] == [16, 16]
        seen |= {image.numpy().tobytes() for images, _ in batches for image in images}
    assert len(seen) == len(train)
    task.limit_batches = 1
    assert task.batches_per_epoch() == len(list(task.train_batches(generator, "cpu"))) == 1


def test_noise_of_mnist_is_the_same_at_every_call_and_leaves_the_labels_alone():
    grey = Images(torch.full((40, 28, 28, 1), 128, dtype=torch.uint8), torch.arange(40))
    seen = noisy(grey, 0.1)
    assert torch.equal(seen.pixels, noisy(grey, 0.1).pixels)
    assert seen.pixels.dtype == torch.uint8
    assert torch.equal(seen.labels, grey.labels)
    assert seen.pixels.double().std().item() == pytest.approx(25.5, rel=0.02)
    assert seen.pixels.double().mean().item() == pytest.approx(128, abs=0.5)
    # What would be darker than black or brighter than white is black or white.
    wide = noisy(grey, 1.0).pixels
    assert (wide == 0).double().mean().item() == pytest.approx(0.31, abs=0.01)
    assert (wide == 255).double().mean().item() == pytest.approx(0.31, abs=0.01)


def test_normalisation_is_the_published_one():
    task = ImageClassification({}, digits_cnn, batch_size=1, scale=SCALE)
    pixels = torch.tensor([0, 127, 255], dtype=torch.uint8).expand(1, 2, 2, 3)
    expected = (torch.tensor([0, 127, 255]) / 255 - torch.tensor(SCALE[0])) / torch.tensor(SCALE[1])
    assert torch.allclose(task.normalise(pixels)[0, :, 0, 0], expected, rtol=0, atol=1e-6)


def test_evaluation_counts_every_image_once():
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([2.0, 0.0]).expand(len(x), 2)

    images = Images(torch.zeros(1201, 2, 2, 1, dtype=torch.uint8), (torch.arange(1201) % 3 == 0).long())
    task = ImageClassification({"test": images}, digits_cnn, batch_size=1, scale=((0.5,), (0.5,)))
    measures = task.evaluate(Constant(), "test", "cpu")
    ones = 401
    log = torch.tensor([2.0, 0.0]).log_softmax(0)
    assert measures["accuracy"] == (1201 - ones) / 1201
    assert measures["loss"] == pytest.approx(
        (-(1201 - ones) * log[0] - ones * log[1]).item() / 1201, rel=1e-5
    )


RECIPES = [
    pytest.param(preset, id=f"{task}-{name}")
    for task, presets in PRESETS.items()
    for name, preset in presets.items()
]


@pytest.mark.parametrize("preset", RECIPES)
def test_every_recipe_builds_its_optimizer(preset):
    assert set(preset.optimizers) <= set(preset.recipes)
    for name, recipe in preset.recipes.items():
        optimizer = build_optimizer(name, nn.Linear(2, 2), **recipe.settings)
        assert all(group["lr"] == recipe.settings["lr"] for group in optimizer.param_groups)
        assert recipe.source


@pytest.mark.parametrize("name", ["adabound", "yogi", "msvag"])
def test_rivals_leave_alone_what_is_not_decayed(name):
    model = nn.Linear(2, 2)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    optimizer = build_optimizer(name, model, lr=0.1, weight_decay=1.0, no_decay="norms_and_biases")
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    moved = {key: (p - before[key]).abs() for key, p in model.named_parameters()}
    assert 20 * moved["bias"].max() < moved["weight"].max()  # Yogi's averages begin at 1e-6, not at 0


RIVALS = {"sgd", "adabound", "yogi", "radam", "msvag", "fromage", "adam", "adamw", "adabelief"}
FAMILY = {"adamplus", "ladam", "ladabelief", "laida", "aida", "aida-k1"}


def test_every_task_has_both_presets_with_every_rival_and_the_whole_family():
    assert list(PRESETS)[:5] == ["digits", "mnist", "cifar10", "cifar100", "imagenet"]
    for presets in PRESETS.values():
        assert {"small", "paper"} <= set(presets)
        assert all(set(preset.recipes) == RIVALS | FAMILY for preset in presets.values())


def test_recipes_agree_with_the_library_preset():
    preset = aida.presets["cifar"]
    defaults = aida.create_optimizer("aida", nn.Linear(2, 2), **preset).defaults
    ours = aida.create_optimizer("aida", nn.Linear(2, 2), **CIFAR["aida"].settings).defaults
    assert ours == defaults
