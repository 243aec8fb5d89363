"""What a layer is: a parameter tensor, a module's tensors together, or what a function of them says.

A parameter is a layer; or it is cut into slices, which are layers; or it shares one layer with others, under
a key. This file says which. A slice is stepped as a view of its parameter, gradient and moments
(layer_batch.py); tensors that share a layer are stepped each by itself, with sums over all of them
(shared_layers.py).
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

Index = int | slice | tuple[Any, ...]
Box = tuple[tuple[int, int], ...]
"""First place, and the place after the last, in each dimension of a tensor."""
LayersOf = str | Callable[[Any, Tensor], str | Sequence[Index] | None]
"""The argument `layers`: "tensor", "module", or a function (name, parameter) -> None, a key or slices."""
ROOT = "(root)"
"""The layer of parameters that the model itself has, where a module is a layer."""
SAVED_LAYERS = "layers"
"""A saved group's key for what its layers are; live groups do not have it."""


@dataclass(frozen=True, eq=False, slots=True)
class Slice:
    """A part of a parameter that is a layer of its own."""

    param: Tensor
    number: int  # among the parameter's slices, from 0
    box: Box

    @property
    def numel(self) -> int:
        """Elements of the whole slice, of which a rank may hold a piece."""
        return int(np.prod([stop - start for start, stop in self.box]))

    def index(self, start: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
        """Where the slice lies in a piece of the parameter that begins at `start`; it may be empty there."""
        pairs = zip(self.box, start, shape, strict=False)  # a rank outside of the mesh has one, of size 0
        return tuple(slice(*(min(max(x - first, 0), n) for x in ends)) for ends, first, n in pairs)

    def __str__(self) -> str:
        """As one would index the parameter: [0:64], or [:, 0:64]."""
        pairs = zip(self.box, self.param.shape, strict=True)
        shown = [":" if (start, stop) == (0, n) else f"{start}:{stop}" for (start, stop), n in pairs]
        while shown[-1] == ":":  # not all are: it is a part
            shown.pop()
        return f"[{', '.join(shown)}]"


class _Known(NamedTuple):
    """What a parameter was found to be, and what that depends on."""

    name: str | None
    shape: torch.Size
    slices: tuple[Slice, ...]  # empty: it is not cut
    key: str | None  # of the layer that it may share


class Layering:
    """What the layers of an optimizer's parameters are, as its argument `layers` says.

    It is asked where groups have a new parameter, or one that has another shape: what is known stays as it
    is, whatever names a loaded state gives the groups.
    """

    def __init__(self, layers: LayersOf = "tensor") -> None:
        if not callable(layers) and layers not in ("tensor", "module"):
            raise ValueError(
                f'layers is {layers!r}; it must be "tensor", "module" or a function of (name, parameter)'
            )
        self.layers = layers
        self.is_plain = layers == "tensor"
        """Whether each parameter is a layer, as in the paper."""
        self.shares = False
        """Whether any layer has several tensors."""
        self.version = 0
        """How often anything new has been found."""
        self._known: dict[Tensor, _Known] = {}
        self._members: dict[str, list[Tensor]] = {}

    def update(self, groups: Sequence[Mapping[str, Any]], names: Sequence[Any] = ()) -> None:
        """Find what is new in the groups.

        names: of each group's parameters, where they are not those of its `param_names`. Raises ValueError or
        TypeError where `layers` gives none of a parameter, or its name cannot be told; then nothing has
        changed.
        """
        if self.is_plain:
            return
        now: dict[Tensor, _Known] = {}
        changed = False
        for group, of_group in zip_longest(groups, names):
            for i, p in enumerate(group["params"]):
                if p in now or torch.nn.parameter.is_lazy(p):
                    continue
                known = self._known.get(p)
                if known is None or known.shape != p.shape:
                    known = self._find(known.name if known else _name(group, i, of_group), p)
                    changed = True
                now[p] = known
        if changed or len(now) != len(self._known):
            self._known, self.version = now, self.version + 1
            self._members = {}
            for p, known in now.items():
                if known.key is not None:
                    self._members.setdefault(known.key, []).append(p)
            self.shares = any(len(members) > 1 for members in self._members.values())

    def names(self, groups: Iterable[Mapping[str, Any]]) -> list[list[str | None]]:
        """Under which names the groups' parameters are known."""
        known = self._known
        return [[known[p].name if p in known else None for p in group["params"]] for group in groups]

    def slices(self, p: Tensor) -> tuple[Slice, ...]:
        """The layers that a parameter is cut into; none where it is not cut."""
        return self._known[p].slices if p in self._known else ()

    def rows(self, p: Tensor) -> Sequence[Any]:
        """What a parameter has a row of sums for: itself, or each of its slices."""
        return self.slices(p) or (p,)

    def key(self, p: Tensor) -> str | None:
        """Of the layer that a parameter shares with others; None where it shares none."""
        key = self.named_key(p)
        return key if key is not None and len(self._members[key]) > 1 else None

    def named_key(self, p: Tensor) -> str | None:
        """As key(), of a layer that has no other tensor too."""
        return self._known[p].key if p in self._known else None

    def members(self, key: str) -> list[Tensor]:
        """The parameters that share a layer."""
        return self._members.get(key, [])

    def described(self, params: Sequence[Tensor]) -> str:
        """What the layers of a group are, as a plain string that differs where they do."""
        if not callable(self.layers):
            return self.layers
        entries = [(self.named_key(p), [layer.box for layer in self.slices(p)]) for p in params]
        digest = hashlib.sha256(repr(entries).encode()).hexdigest()[:12]
        own = sum(len(boxes) or 1 for key, boxes in entries if key is None)
        layers = own + len({key for key, _ in entries if key is not None})
        return f"a function that makes {layers} layers of {len(params)} parameters, {digest}"

    def _find(self, name: str | None, p: Tensor) -> _Known:
        if self.layers == "module":
            if name is None:
                raise ValueError(
                    'layers="module" needs the names of parameters: give model.named_parameters() in place '
                    "of model.parameters()"
                )
            return _Known(name, p.shape, (), name.rpartition(".")[0] or ROOT)
        function: Any = self.layers
        try:
            found = function(name, p)
        except Exception as error:
            hint = "" if name is not None else "; it has no name: give model.named_parameters()"
            error.add_note(f"layers(name, parameter) raised this, given {_called(name, p)}{hint}")
            raise
        if found is None or isinstance(found, str):
            return _Known(name, p.shape, (), found)
        if not isinstance(found, list | tuple):
            raise TypeError(
                f"layers(name, parameter) gave {found!r:.80} for {_called(name, p)}: return None for a layer "
                "of its own, a string for the layer that it shares with others, or a list of slices"
            )
        boxes = _boxes(found, name, p) if p.numel() else []
        whole = len(boxes) < 2
        return _Known(
            name, p.shape, () if whole else tuple(Slice(p, i, box) for i, box in enumerate(boxes)), None
        )


def _name(group: Mapping[str, Any], i: int, of_group: Sequence[str | None] | None) -> str | None:
    names = group.get("param_names") if of_group is None else of_group
    if names and len(names) != len(group["params"]):
        raise ValueError(
            f"a parameter group has {len(group['params'])} parameters and {len(names)} names in its "
            "param_names, so that the name of a new one, which `layers` asks for, cannot be told: change "
            "both lists together"
        )
    return names[i] if names else None


def _called(name: str | None, p: Tensor) -> str:
    return f"parameter {name or 'without a name'} of shape {tuple(p.shape)}"


def _boxes(found: Sequence[Any], name: str | None, p: Tensor) -> list[Box]:
    """The slices as boxes; ValueError or TypeError unless each element of p is in exactly one."""
    boxes = [_box(index, name, p) for index in found]
    # One cell for all elements that no slice tells apart.
    edges = [sorted({0, n, *(x for box in boxes for x in box[dim])}) for dim, n in enumerate(p.shape)]
    times = np.zeros([len(of_dim) - 1 for of_dim in edges], np.int64)
    places = [{x: i for i, x in enumerate(of_dim)} for of_dim in edges]
    for box in boxes:
        times[tuple(slice(at[a], at[b]) for at, (a, b) in zip(places, box, strict=True))] += 1
    if (wrong := np.argwhere(times != 1)).size:
        cell = tuple(int(i) for i in wrong[0])
        element = tuple(of_dim[i] for of_dim, i in zip(edges, cell, strict=True))
        how = "into none of its slices" if times[cell] == 0 else "into several slices"
        raise ValueError(
            f"layers(name, parameter) puts element {list(element)} of {_called(name, p)} {how}: give each "
            "element to exactly one"
        )
    return boxes


def _box(index: Any, name: str | None, p: Tensor) -> Box:
    given = index if isinstance(index, tuple) else (index,)
    if any(x is Ellipsis for x in given):
        at = next(i for i, x in enumerate(given) if x is Ellipsis)
        given = (*given[:at], *[slice(None)] * (p.dim() - len(given) + 1), *given[at + 1 :])
    given = (*given, *[slice(None)] * (p.dim() - len(given)))
    ends: list[tuple[int, int]] = []
    for x, n in zip(given, p.shape, strict=False):
        if (place := _integer(x)) is not None and -n <= place < n:
            ends.append((place % n, place % n + 1))
        elif isinstance(x, slice) and x.step in (None, 1):
            start, stop, _ = x.indices(n)
            ends.append((start, stop))
    if len(ends) != p.dim() or len(given) != p.dim() or any(start >= stop for start, stop in ends):
        raise ValueError(
            f"layers(name, parameter) gave the slice {index!r} for {_called(name, p)}: a slice is an integer "
            "or slice(start, stop), or a tuple of these, one for each dimension, and has elements"
        )
    return tuple(ends)


def _integer(x: Any) -> int | None:
    """The integer that x is in any library; None for anything else, True and False among it."""
    try:
        return None if isinstance(x, bool) or getattr(x, "dtype", None) is torch.bool else operator.index(x)
    except TypeError:
        return None
