"""The Fréchet distance in given features, and the classifier that gives them where Inception cannot."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import nn

from aida_bench.data.images import Images
from aida_bench.errors import UserError
from aida_bench.tasks.metrics import frechet
from aida_bench.tasks.metrics.frechet import FrechetDistance, classifier_features, to_bytes


def prepare(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1)


def halves(n: int = 256) -> Images:
    """The upper or the lower half is bright, says the label; 8x8, so that it is soon learned."""
    labels = torch.arange(n) % 2
    pixels = torch.randint(60, (n, 8, 8, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pixels[labels == 1, :4] += 180
    pixels[labels == 0, 4:] += 180
    return Images(pixels, labels)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("AIDA_DATA", str(tmp_path))
    torch.set_num_threads(1)
    return tmp_path / "mnist" / "classifier-8.pt"


def flat() -> FrechetDistance:
    """Of the pixels themselves, in float64."""
    images = Images(torch.zeros(1, 1, 3, 1, dtype=torch.uint8), torch.zeros(1))
    return FrechetDistance(nn.Flatten(), "mnist", images, lambda pixels: prepare(pixels).double())


def test_distance_of_known_distributions():
    """A shift costs its square; a factor s on a covariance costs tr S (1 - sqrt s)^2."""
    distance, draw = flat(), torch.Generator().manual_seed(0)
    scales = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    x = torch.randn(400, 1, 1, 3, dtype=torch.float64, generator=draw) * scales
    shift = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    assert distance.name == "frechet"
    assert distance("x", x.split(100), (x + shift).split(150), "cpu") == pytest.approx(5.25, rel=1e-9)
    mean = x.mean(0)
    wider = mean + 1.5 * (x - mean)
    trace = x.flatten(1).var(0).sum().item()
    # The real images are kept and the made ones are not: an empty list, and no trace of the shift.
    assert distance("x", [], [wider], "cpu") == pytest.approx(trace * 0.25, rel=1e-9)
    assert distance("wider", [wider], [wider], "cpu") == pytest.approx(0, abs=1e-8)


def test_what_is_not_finite_is_nan():
    real = torch.randn(5, 1, 1, 3, dtype=torch.float64)
    distance = flat()
    assert torch.isnan(torch.tensor(distance("x", [real], [real / 0], "cpu")))
    assert distance("x", [], [real], "cpu") == pytest.approx(0, abs=1e-8)


def test_the_classifier_learns_is_kept_and_leaves_no_trace(cache, monkeypatch):
    images = halves()
    state = torch.get_rng_state()
    with torch.no_grad():
        features = classifier_features("mnist", images, prepare, "cpu")
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        found = features.eval()(prepare(images.pixels))
    assert found.shape == (256, 128)
    assert found.min() >= 0
    # Learned: the classes lie further apart than random features put them.
    means = [found[images.labels == label].mean(0) for label in (0, 1)]
    assert (means[0] - means[1]).norm() > 2 * found[images.labels == 0].std(0).norm()

    monkeypatch.setattr(frechet, "train_classifier", lambda *_: pytest.fail("trained again"))
    again = classifier_features("mnist", images, prepare, "cpu").eval()
    with torch.no_grad():
        assert torch.equal(again(prepare(images.pixels)), found)


def test_a_damaged_classifier_is_trained_again(cache):
    images = halves()
    first = classifier_features("mnist", images, prepare, "cpu").state_dict()
    whole = torch.load(cache, weights_only=True)
    altered = {**whole, "state": {name: tensor + 1 for name, tensor in whole["state"].items()}}
    torch.save(altered, cache)
    assert frechet.load_verified(cache) is None
    again = classifier_features("mnist", images, prepare, "cpu").state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    cache.write_bytes(cache.read_bytes()[:1000])
    assert frechet.load_verified(cache) is None
    assert not list(cache.parent.glob("*.part"))


def test_distance_is_named_by_its_features(cache, monkeypatch):
    images = halves()
    distance = FrechetDistance("classifier", "mnist", images, prepare)
    assert distance.name == "frechet_mnist"
    noise = torch.rand(128, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    halved = prepare(images.pixels).split(128)
    assert distance("x", halved[:1], [noise], "cpu") > 20 * distance("x", [], halved[1:], "cpu")
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    weights = cache.parent / "inception.pth"
    with pytest.raises(UserError, match=r"inception.pth is no file: give Inception's weights"):
        FrechetDistance(weights, "mnist", images, prepare)
    weights.write_bytes(b"weights")
    assert FrechetDistance(str(weights), "mnist", images, prepare).name == "fid"
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UserError, match=r'FID needs a package: pip install "torchmetrics\[image\]"'):
        FrechetDistance("inception", "mnist", images, prepare)


def test_bytes():
    assert to_bytes(torch.tensor([-1.0, 0.0, 1.0, 1.001, -2.0])).tolist() == [0, 128, 255, 255, 0]
