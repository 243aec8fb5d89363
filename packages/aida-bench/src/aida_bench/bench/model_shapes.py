"""The parameters of real models, as shapes alone: what an optimizer's step costs depends on nothing else."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

Shape = tuple[int, ...]


def linear(outputs: int, inputs: int) -> list[Shape]:
    return [(outputs, inputs), (outputs,)]


def norm(width: int) -> list[Shape]:
    return [(width,), (width,)]


def vgg11() -> list[Shape]:
    """Without batch norm; for CIFAR-10."""
    widths = [3, 64, 128, 256, 256, 512, 512, 512, 512]
    convolutions = zip(widths[1:], widths[:-1], strict=True)
    features = [shape for out, into in convolutions for shape in ((out, into, 3, 3), (out,))]
    return [*features, *linear(512, 512), *linear(512, 512), *linear(10, 512)]


def resnet34() -> list[Shape]:
    """With the 3 x 3 stem for CIFAR-10."""
    shapes: list[Shape] = [(64, 3, 3, 3), *norm(64)]
    into = 64
    for out, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for _ in range(blocks):
            shapes += [(out, into, 3, 3), *norm(out), (out, out, 3, 3), *norm(out)]
            if into != out:
                shapes += [(out, into, 1, 1), *norm(out)]
            into = out
    return [*shapes, *linear(10, 512)]


def transformer_base(vocabulary: int = 10_000) -> list[Shape]:
    """6 + 6 layers, one shared embedding, attention without biases, a norm after either embedding."""
    attention = [(512, 512)] * 4
    feed_forward = [*linear(2048, 512), *linear(512, 2048)]
    encoder = [*attention, *feed_forward, *norm(512) * 2]
    decoder = [*attention * 2, *feed_forward, *norm(512) * 3]
    return [(vocabulary, 512), *norm(512) * 2, *encoder * 6, *decoder * 6]


def gpt(layers: int, dim: int, context: int, vocabulary: int = 50_257) -> list[Shape]:
    """Of GPT-2's form, its output tied to the embedding."""
    attention = [*linear(3 * dim, dim), *linear(dim, dim)]
    block = [*norm(dim) * 2, *attention, *linear(4 * dim, dim), *linear(dim, 4 * dim)]
    return [(vocabulary, dim), (context, dim), *block * layers, *norm(dim)]


def small_tensors() -> list[Shape]:
    return [(20, 25)] * 200


MODELS: dict[str, tuple[Callable[[], list[Shape]], int]] = {
    "small-tensors": (small_tensors, 100_000),
    "vgg11": (vgg11, 9_750_922),
    "resnet34": (resnet34, 21_282_122),
    "transformer-base": (transformer_base, 44_103_680 + 512 * 10_000),
    "gpt2-small": (lambda: gpt(12, 768, 1024), 124_439_808),
}
LARGE: dict[str, tuple[Callable[[], list[Shape]], int]] = {
    "gpt-1.3b": (lambda: gpt(24, 2048, 2048), 1_315_723_264),
}
"""For accelerators: with moments and gradients, one optimizer's tensors take 21 GB."""


def model_shapes(name: str) -> list[Shape]:
    """The shapes of a model of MODELS or LARGE, whose number of parameters is checked."""
    build, parameters = {**MODELS, **LARGE}[name]
    shapes = build()
    assert sum(map(prod, shapes)) == parameters, f"{name} has {sum(map(prod, shapes))} parameters"
    return shapes
