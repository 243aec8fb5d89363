"""What is measured, what it is called, and how a number of it is written: the same on every surface."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

SPLITS = ("train", "validation", "test")


def written(value: float, form: str) -> str:
    """A number in `form`; one too long for a table, or that it would show as 0 and is not, by its digits."""
    value += 0.0  # -0.0 is 0.0
    shown = format(value, form)
    if abs(value) >= 1e5:
        return format(value, form[: form.startswith("+")] + ".2e")
    return format(value, form[: form.startswith("+")] + ".1e") if value and not float(shown) else shown


@dataclass(frozen=True)
class Metric:
    """What a number is called and how it is shown: `scale` turns 0.97 into 97 %."""

    name: str
    label: str
    higher: bool = False
    scale: float = 1.0
    form: str = ".4g"

    def show(self, value: float) -> str:
        return written(self.scale * value, self.form)

    def signed(self, difference: float) -> str:
        return written(self.scale * difference, f"+{self.form}")

    def better(self, difference: float) -> bool:
        return difference > 0 if self.higher else difference < 0


# In the order in which they rank optimizers.
METRICS = {
    measure.name: measure
    for measure in (
        Metric("accuracy", "accuracy, %", higher=True, scale=100, form=".2f"),
        Metric("bleu", "BLEU", higher=True, form=".2f"),
        Metric("fid", "FID", form=".2f"),
        Metric("frechet_mnist", "Fréchet distance in the features of a classifier of MNIST", form=".2f"),
        Metric("frechet_cifar10", "Fréchet distance in the features of a classifier of CIFAR-10", form=".2f"),
        Metric("frechet", "Fréchet distance in the given features"),
        Metric("perplexity", "perplexity", form=".2f"),
        Metric("token_accuracy", "token accuracy, %", higher=True, scale=100, form=".2f"),
        Metric("top5_accuracy", "top-5 accuracy, %", higher=True, scale=100, form=".2f"),
        Metric("wasserstein", "Wasserstein distance as the critic estimates it", form=".3f"),
        Metric("loss", "loss", form=".4f"),
    )
}


NOTHING = Metric("score", "score")
"""Where no epoch has been measured yet, nobody can say what the score will be of."""


HIGHER = (
    "auc", "auroc", "average_precision", "dice", "f1", "iou", "map", "mcc", "miou", "precision", "psnr", "r2",
    "recall", "reward", "rouge", "ssim",
)  # fmt: skip
"""What tasks from outside the package often measure, of which more is better."""


def told_higher(config: Mapping[str, Any]) -> set[str]:
    """The measures of which more is better, as a run's configuration has them of its task, if it has any."""
    names = config.get("higher")
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()


def measure_named(name: str, higher: Collection[str] = ()) -> Metric:
    """A measure by its name; of an unknown one that its task does not say `higher` of less counts as better,
    and its label says so, save a loss."""
    if name in METRICS:
        return METRICS[name]
    more = name in HIGHER or name in higher
    shown = name.replace("_", " ")
    plain = more or name.endswith(("loss", "error"))
    return Metric(name, shown if plain else f"{shown} (less counts as better)", higher=more)


def key_measure(key: str, higher: Collection[str] = ()) -> Metric:
    """The measure of a key of a row: "validation_accuracy" is accuracy on the validation set. Its name and
    its form do not depend on what `higher` says."""
    split, _, name = key.partition("_")
    return measure_named(name if split in SPLITS else key, higher)


def key_label(key: str, measure: Metric) -> str:
    """ "validation_accuracy" is "validation accuracy, %"."""
    split = key.partition("_")[0]
    return f"{split} {measure.label}" if split in SPLITS else measure.label
