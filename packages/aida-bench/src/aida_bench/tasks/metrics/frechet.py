"""Fréchet distance of generated images to real ones, in features that can be given.

|mu - mu'|^2 + tr(S + S' - 2 (S S')^(1/2)) of the features' means and covariances (Heusel et al. 2017). It is
called FID only in the features of their Inception; it grows as images get fewer, so compare equal numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from aida_bench.data.fetch import Url, cache_folder, fetch
from aida_bench.data.images import Images
from aida_bench.errors import UserError
from aida_bench.models.cnn import small_cnn
from aida_bench.storage.files import locked, replaced

INCEPTION = Url(
    "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
    "pt_inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
WIDTHS = {"mnist": 16, "cifar10": 32}
EPOCHS = {"mnist": 2, "cifar10": 10}
SIDE, BATCH, LR, SEED = 32, 128, 1e-3, 0
Prepare = Callable[[Tensor], Tensor]
"""Pixels as they are kept to images [B, C, H, W] in [-1, 1]."""


class FrechetDistance:
    """Distances to real images that are kept by name once seen. `extractor` is one of

    "classifier": the 128 features of `classifier_features`, trained on `images` of the data set `data`;
    "inception" or a path to its weights: FID by torchmetrics, in 2,048 features;
    a module from images [B, C, H, W] in [-1, 1] to features [B, F].
    Raises UserError if Inception's weights or torch-fidelity, which has its form, are missing.
    """

    def __init__(
        self, extractor: str | Path | nn.Module, data: str, images: Images, prepare: Prepare
    ) -> None:
        self.real: dict[tuple[str, str], Any] = {}
        self.weights: Path | None = None
        self.sample = prepare(images.pixels[:1])
        if isinstance(extractor, nn.Module):
            self.name, self.features = "frechet", lambda device: extractor
        elif extractor == "classifier":
            self.name = f"frechet_{data}"
            self.features = lambda device: classifier_features(data, images, prepare, device)
        else:
            self.name, self.weights = "fid", inception_weights(extractor)

    def __call__(self, name: str, real: Iterable[Tensor], made: Iterable[Tensor], device: Any) -> float:
        """Of the images `made` to the images `real`, which are read only if `name` is new; nan if they lead
        to features that are not finite."""
        metric = self.real.get((name, str(device)))
        if metric is None:
            metric = self._metric(device)
            self._update(metric, real, True)
            self.real[name, str(device)] = metric
        metric.reset()
        self._update(metric, made, False)
        return metric.compute().item() if metric.fake_features_cov_sum.isfinite().all() else float("nan")

    def _metric(self, device: Any) -> Any:
        from torchmetrics.image.fid import FrechetInceptionDistance

        # Every process measures the same images: nothing is summed over processes.
        own: dict[str, Any] = dict(reset_real_features=False, sync_on_compute=False)
        if self.weights:
            own |= dict(feature=2048, feature_extractor_weights_path=str(self.weights))
        else:
            features: Any = nn.Sequential(self.features(device)).to(device).eval()
            features.num_features = features(self.sample.to(device)).shape[1]
            own |= dict(feature=features)
        return FrechetInceptionDistance(**own).to(device)

    def _update(self, metric: Any, batches: Iterable[Tensor], real: bool) -> None:
        for images in batches:
            metric.update(to_bytes(images).expand(-1, 3, -1, -1) if self.weights else images, real=real)


def to_bytes(images: Tensor) -> Tensor:
    """[-1, 1] to 0 … 255."""
    return images.add(1).mul(127.5).round().clamp(0, 255).byte()


def inception_weights(extractor: str | Path) -> Path:
    try:
        import torch_fidelity  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise UserError('FID needs a package: pip install "torchmetrics[image]".') from error
    if extractor == "inception":
        return fetch("inception", "Inception's weights", (INCEPTION,))[0]
    path = Path(extractor)
    if not path.is_file():
        raise UserError(f"{path} is no file: give Inception's weights, {INCEPTION.filename}.")
    return path


def classifier_features(data: str, images: Images, prepare: Prepare, device: Any) -> nn.Module:
    """The last hidden layer, [B, 128] after its ReLU, of `small_cnn` on images of 32x32 (larger ones are
    averaged): Adam, lr 1e-3, batch 128, without augmentation, 2 epochs for MNIST, 10 for CIFAR-10, seed 0.

    Kept in the data's cache folder with its SHA-256, and trained again if it is missing or damaged.
    """
    shape = prepare(images.pixels[:1]).shape
    path = cache_folder(data) / f"classifier-{shape[-1]}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = nn.Sequential(nn.AdaptiveAvgPool2d(SIDE), *small_cnn(shape[1], 10, WIDTHS[data]).children())
        model.to(device)
        # One process trains while others wait for what it keeps.
        with locked(path.with_suffix(".lock")):
            state = load_verified(path)
            if state is None:
                train_classifier(model, images, prepare, EPOCHS[data], device)
                state = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
                with replaced(path) as beside:
                    torch.save({"sha256": digest(state), "state": state}, beside)
    model.load_state_dict(state)
    return model[:-1].requires_grad_(False)


@torch.enable_grad()
def train_classifier(model: nn.Module, images: Images, prepare: Prepare, epochs: int, device: Any) -> None:
    optimizer = torch.optim.Adam(model.parameters(), lr=LR)
    for _ in range(epochs):
        for index in torch.randperm(len(images)).split(BATCH):
            batch = images.take(index)
            loss = cross_entropy(model(prepare(batch.pixels.to(device))), batch.labels.to(device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def load_verified(path: Path) -> dict[str, Tensor] | None:
    """What was kept, if it is whole."""
    try:
        kept = torch.load(path, weights_only=True)
        return kept["state"] if digest(kept["state"]) == kept["sha256"] else None
    except (OSError, RuntimeError, UnpicklingError, EOFError, KeyError, TypeError):
        return None


def digest(state: dict[str, Tensor]) -> str:
    """SHA-256 of the tensors' names and bytes."""
    whole = hashlib.sha256()
    for name, tensor in state.items():
        whole.update(name.encode())
        whole.update(tensor.contiguous().numpy().tobytes())
    return whole.hexdigest()
