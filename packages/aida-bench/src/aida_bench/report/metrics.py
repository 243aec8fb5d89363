"""What is measured, what it is called, and how a number of it is written: the same on every surface."""

from __future__ import annotations

from dataclasses import dataclass

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
_declared: set[str] = set()


def declare_higher(names: object) -> None:
    """What a run's configuration says of its task's own measures, if anything: of which more is better."""
    if isinstance(names, list):
        _declared.update(name for name in names if isinstance(name, str))


def measure_named(name: str) -> Metric:
    """A measure by its name; of an unknown one less counts as better, and its label says so, save a loss."""
    if name in METRICS:
        return METRICS[name]
    higher = name in HIGHER or name in _declared
    shown = name.replace("_", " ")
    plain = higher or name.endswith(("loss", "error"))
    return Metric(name, shown if plain else f"{shown} (less counts as better)", higher=higher)


def key_measure(key: str) -> Metric:
    """The measure of a key of a row: "validation_accuracy" is accuracy on the validation set."""
    split, _, name = key.partition("_")
    return measure_named(name if split in SPLITS else key)


def key_label(key: str) -> str:
    """ "validation_accuracy" is "validation accuracy, %"."""
    split = key.partition("_")[0]
    return f"{split} {key_measure(key).label}" if split in SPLITS else key_measure(key).label
