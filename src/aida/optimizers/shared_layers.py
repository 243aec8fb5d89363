"""Sums over layers of several tensors: between gram and the rule, once ranks have added up their pieces.

A tensor's row of sums is replaced by the sum of all rows of its layer, so that all of them find the same
coefficients. Rows are added in a fixed order, without atomics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..backends.contract import Coefficients
from ..backends.upload import upload
from .layers import Layering
from .rule import Rule, coefficients

Keys = Sequence[str | None]
"""Of each row, the layer that it belongs to; None where it is a layer of its own."""


def with_counts(gram: Any, pieces: Sequence[Tensor]) -> Any:
    """Sums [L, 4] with a fifth column, the numbers of elements that they are taken over: [L, 5]."""
    counts = [piece.numel() for piece in pieces]
    if not isinstance(gram, Tensor):
        gram = torch.from_numpy(gram)
        return torch.cat([gram, torch.tensor(counts, dtype=gram.dtype)[:, None]], 1).numpy()
    return torch.cat([gram, upload(counts, gram.device, gram.dtype)[:, None]], 1)


def add_up(tables: Sequence[tuple[Keys, Any]], elsewhere: Mapping[Any, Tensor], layering: Layering) -> None:
    """Replace each row of a table by the sum of all rows that share its key, in place.

    tables: keys of rows, and rows [L, width], as tensors or as writable NumPy arrays. elsewhere: rows of
    parameters that have a gradient on other ranks alone. Tables that share a layer are brought to the device
    of the first of them.
    """
    tables = [*tables, *_by_device(elsewhere, layering)]
    places: dict[str, list[tuple[int, int]]] = {}
    for i, (keys, _) in enumerate(tables):
        for j, key in enumerate(keys):
            if key is not None:
                places.setdefault(key, []).append((i, j))
    linked: dict[tuple[int, ...], list[list[tuple[int, int]]]] = {}
    for layer in places.values():
        if len(layer) > 1:
            linked.setdefault(tuple(sorted({i for i, _ in layer})), []).append(layer)
    for which, layers in linked.items():
        _add_up({i: torch.as_tensor(tables[i][1]) for i in which}, layers)


def _by_device(rows: Mapping[Any, Tensor], layering: Layering) -> list[tuple[Keys, Tensor]]:
    found: dict[torch.device, tuple[list[str | None], list[Tensor]]] = {}
    for p, row in rows.items():
        if isinstance(p, Tensor) and (key := layering.key(p)) is not None:
            keys, of_device = found.setdefault(row.device, ([], []))
            keys.append(key)
            of_device.append(row)
    return [(keys, torch.stack(of_device)) for keys, of_device in found.values()]


def _add_up(tables: dict[int, Tensor], layers: list[list[tuple[int, int]]]) -> None:
    first = next(iter(tables.values()))
    start, starts = 0, {}
    for i, table in tables.items():
        starts[i] = start
        start += len(table)
    most = max(map(len, layers))
    rows = [[starts[i] + j for i, j in layer] for layer in layers]
    padded = [[*of_layer, *[start] * (most - len(of_layer))] for of_layer in rows]
    # A last row of zeros fills layers of fewer tensors up.
    parts = [table.to(first.device, first.dtype) for table in tables.values()]
    flat = torch.cat([*parts, torch.zeros_like(first[:1])])
    index = upload([i for of_layer in padded for i in of_layer], flat.device, torch.int64)
    totals = flat[index].view(len(layers), most, -1).sum(1)
    to = upload([i for of_layer in rows for i in of_layer], flat.device, torch.int64)
    of = upload([n for n, of_layer in enumerate(rows) for _ in of_layer], flat.device, torch.int64)
    flat = flat.index_copy(0, to, totals[of])
    for i, table in tables.items():
        table.copy_(flat[starts[i] : starts[i] + len(table)])


def once(keys: Keys, rule: Rule, sums: Any) -> Coefficients:
    """(alpha, beta) of rows of sums, from a rule that is given each layer once, as its first row has it."""
    seen: dict[Any, int] = {}
    firsts: list[int] = []
    layers: list[int] = []
    for i, key in enumerate(keys):
        layer = seen.setdefault(i if key is None else key, len(firsts))
        if layer == len(firsts):
            firsts.append(i)
        layers.append(layer)
    alpha, beta = coefficients(rule, _taken(sums, firsts))
    return _taken(alpha, layers), _taken(beta, layers)


def _taken(x: Any, index: list[int]) -> Any:
    if not getattr(x, "ndim", 0):
        return x
    return x[upload(index, x.device, torch.int64) if isinstance(x, Tensor) else index]
