"""CIFAR-100, trained as CIFAR-10 is; its normalisation too is the published code's for both."""

from __future__ import annotations

from aida_bench.data.cifar100 import load_cifar100
from aida_bench.data.images import Images
from aida_bench.tasks.cifar10 import Cifar10


class Cifar100(Cifar10):
    name = "cifar100"
    classes = 100

    def load(self) -> tuple[Images, Images]:
        return load_cifar100()
