"""MNIST, CIFAR-100 and ImageNet: real forms on small files, and tasks on them."""

from __future__ import annotations

import io
import json
import shutil
import struct
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from aida_bench.cli.app import app
from aida_bench.data import cifar100, mnist
from aida_bench.data.catalogue import DATA_SETS
from aida_bench.data.fetch import cache_folder, sha256
from aida_bench.data.imagenet import load_imagenet
from aida_bench.errors import UserError
from aida_bench.tasks import create_task
from aida_bench.tasks.imagenet import ImageNet, random_box, read_image


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AIDA_DATA", str(tmp_path))
    return tmp_path


def put(monkeypatch, module, source: str, dataset: str, members: dict[str, bytes]) -> None:
    """An archive of the package's form in the cache, and its checksum in place of the real one's."""
    folder = cache_folder(dataset)
    folder.mkdir()
    file = folder / getattr(module, source).filename
    with tarfile.open(file, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    replaced = type(getattr(module, source))(**{**vars(getattr(module, source)), "sha256": sha256(file)})
    monkeypatch.setattr(module, source, replaced)


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape) + array.tobytes()


RNG = np.random.default_rng(0)


def test_mnist_from_the_package(monkeypatch):
    monkeypatch.setattr(mnist, "COUNTS", {"train": 6, "test": 3})
    pixels, labels = RNG.integers(256, size=(9, 28, 28), dtype=np.uint8), np.arange(9, dtype=np.uint8)
    parts = {"train": slice(0, 6), "t10k": slice(6, 9)}
    members = {f"package/data/{p}-images-idx3-ubyte": idx(pixels[part]) for p, part in parts.items()}
    members |= {f"package/data/{p}-labels-idx1-ubyte": idx(labels[part]) for p, part in parts.items()}
    put(monkeypatch, mnist, "PACKAGE", "mnist", members)
    train, test = mnist.load_mnist()
    assert np.array_equal(torch.cat([train.pixels, test.pixels])[..., 0].numpy(), pixels)
    assert torch.cat([train.labels, test.labels]).tolist() == labels.tolist()
    monkeypatch.setattr(mnist, "COUNTS", {"train": 7, "test": 3})
    with pytest.raises(UserError, match="does not hold what MNIST should"):
        mnist.load_mnist()


def test_cifar100_takes_the_fine_labels(monkeypatch):
    monkeypatch.setattr(cifar100, "COUNTS", {"train.bin": 4, "test.bin": 2})
    pixels = RNG.integers(256, size=(6, 32, 32, 3), dtype=np.uint8)
    fine = np.array([0, 99, 5, 7, 42, 1], np.uint8)
    records = np.concatenate(
        [np.full((6, 1), 19, np.uint8), fine[:, None], pixels.transpose(0, 3, 1, 2).reshape(6, -1)], axis=1
    )
    members = {
        "cifar-100-binary/train.bin": records[:4].tobytes(),
        "cifar-100-binary/test.bin": records[4:].tobytes(),
    }
    put(monkeypatch, cifar100, "BINARY", "cifar100", members)
    train, test = cifar100.load_cifar100()
    assert np.array_equal(torch.cat([train.pixels, test.pixels]).numpy(), pixels)
    assert torch.cat([train.labels, test.labels]).tolist() == fine.tolist()
    monkeypatch.setattr("aida_bench.tasks.cifar10.VALIDATION", 1)
    task = create_task("cifar100", model="cnn", batch_size=2)
    model = task.build_model()
    images, _ = next(iter(task.train_batches(torch.Generator(), "cpu")))
    assert model(images).shape == (2, 100)


@pytest.mark.network
def test_real_mnist_has_its_counts(monkeypatch):
    monkeypatch.delenv("AIDA_DATA")
    train, test = mnist.load_mnist()
    assert (len(train), len(test)) == (60_000, 10_000)
    assert train.labels[:6].tolist() == [5, 0, 4, 1, 9, 2]
    assert train.labels.bincount().tolist()[:3] == [5923, 6742, 5958]


def make_folder(root, per_class: int = 30) -> None:
    """Two classes that a colour tells apart, sizes and modes mixed."""
    for part, count in (("train", per_class), ("val", 5)):
        for name, colour in (("blue", (0, 0, 200)), ("red", (200, 0, 0))):
            (root / "imagenet" / part / name).mkdir(parents=True)
            for number in range(count):
                size = (40 + number % 3 * 10, 48)
                noise = RNG.integers(0, 50, size=(*size[::-1], 3), dtype=np.uint8)
                image = Image.fromarray(noise + np.array(colour, np.uint8))
                image = image.convert("P") if number == 0 else image
                image.save(root / "imagenet" / part / name / f"{number}.{'png' if number % 2 else 'bmp'}")


def test_what_is_hidden_is_no_class_and_no_image(cache, capsys):
    """Of notebooks, macOS and version control; a class of them would shift every label."""
    make_folder(cache)
    root = cache / "imagenet"
    clean = [(part.classes, part.labels.tolist(), part.paths) for part in load_imagenet()]
    assert capsys.readouterr().err == ""
    for part in ("train", "val"):
        for name in (".ipynb_checkpoints", ".git/objects", "blue/.ipynb_checkpoints"):
            (root / part / name).mkdir(parents=True)
            shutil.copy(root / "train" / "red" / "0.bmp", root / part / name / "0.bmp")
        shutil.copy(root / "train" / "red" / "0.bmp", root / part / "blue" / "._0.bmp")
    assert [(part.classes, part.labels.tolist(), part.paths) for part in load_imagenet()] == clean
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert all(".git, .ipynb_checkpoints, blue/._0.bmp, blue/.ipynb_checkpoints" in line for line in told)
    (root / "train" / "black").mkdir()
    with pytest.raises(UserError, match="black has no images"):
        load_imagenet()


def test_one_epoch_on_a_folder_of_images(cache, tmp_path):
    make_folder(cache)
    out = tmp_path / "out"
    options = ["--epochs", "1", "--batch-size", "8", "--workers", "1", "--threads", "1", "--device", "cpu"]
    done = CliRunner().invoke(app, ["train", "imagenet", *options, "--out", str(out), "--quiet"])
    assert done.exit_code == 0, done.output
    row = json.loads((out / "rows.jsonl").read_text().splitlines()[0])
    assert row["train_loss"] < 0.9
    assert row["test_top5_accuracy"] == 1
    task = ImageNet(model="resnet18", batch_size=8, size=16)
    assert {split: len(data) for split, data in task.data.items()} == {
        "train": 57,
        "validation": 3,
        "test": 10,
    }
    first, again = (list(task.train_batches(torch.Generator().manual_seed(3), "cpu")) for _ in range(2))
    assert all(
        torch.equal(a, b) for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True)
    )
    assert first[0][0].shape == (8, 3, 16, 16)
    for images, labels in first:  # red is the first channel, and the second class
        assert torch.equal((images[:, 0] > images[:, 2]).float().mean((1, 2)) > 0.5, labels == 1)


def test_crops_lie_within_the_image_and_the_middle_is_the_middle(tmp_path):
    for draws in torch.rand(500, 4, generator=torch.Generator().manual_seed(0)).tolist():
        w, h, left, top = random_box(60, 40, draws)
        assert 0 < w <= 60
        assert 0 < h <= 40
        assert 0 <= left <= 60 - w
        assert 0 <= top <= 40 - h
        assert (w - 0.5) * (h - 0.5) <= 2400 * (0.08 + 0.92 * draws[0])
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[2:30, 18:46] = 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert (read_image(tmp_path / "x.png", None, 8) == 255).all()


def test_folders_that_are_missing_empty_or_disagree(cache):
    with pytest.raises(UserError, match=r"ImageNet is unavailable.*AIDA_DATA"):
        create_task("imagenet", model="resnet18", batch_size=2)
    for part, name in (("train", "a"), ("val", "b")):
        (cache / "imagenet" / part / name).mkdir(parents=True)
    with pytest.raises(UserError, match="has no images"):
        create_task("imagenet", model="resnet18", batch_size=2)
    for part, name in (("train", "a"), ("val", "b")):
        Image.new("RGB", (4, 4)).save(cache / "imagenet" / part / name / "1.png")
    with pytest.raises(UserError, match="different classes"):
        create_task("imagenet", model="resnet18", batch_size=2)


def test_data_commands(monkeypatch):
    listed = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["data", "list"])
    assert listed.exit_code == 0
    for text in ("mnist", "60,000 train", "CIFAR-100", "ptb", "929,589"):
        assert text in listed.stdout
    verified = CliRunner().invoke(app, ["data", "verify", "digits"])
    assert verified.stdout == "digits: 1,257 train, 270 validation, 270 test images\n"
    wrong = CliRunner().invoke(app, ["data", "fetch", "mnits"])
    assert wrong.exit_code == 2
    assert "did you mean mnist" in wrong.stderr
    missing = CliRunner().invoke(app, ["data", "fetch", "imagenet"])
    assert (missing.exit_code, missing.stderr.count("\n")) == (2, 1)


def test_data_within_a_dependency_are_always_here(monkeypatch):
    monkeypatch.setitem(DATA_SETS, "figures", replace(DATA_SETS["digits"]))
    monkeypatch.setitem(DATA_SETS, "absent", replace(DATA_SETS["digits"], embedded=False))
    verified = CliRunner().invoke(app, ["data", "verify"])
    assert [line.partition(":")[0] for line in verified.stdout.splitlines()] == ["digits", "figures"]
    listed = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["data", "list"]).stdout
    here = {
        cells[1].strip(): cells[-2].strip()
        for line in listed.splitlines()
        if len(cells := line.split("│")) > 3
    }
    assert (here["figures"], here["absent"]) == ("yes", "no")
