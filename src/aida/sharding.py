"""Sums over whole layers where a rank holds only a piece: all that knows of DTensors and process groups.

A step works on local shards. The partial sums of all layers go into one table per process group, and one
all_reduce turns them into sums over whole layers. DTensors are looked up in sys.modules, since importing them
takes seconds: where nobody has imported them, there are none.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# A plain parameter -> the process groups that share its layer.
ReduceGroups = Callable[[Tensor], Iterable[Any]]
Sums = Iterable[tuple[Sequence[Any], Any]]  # parameters, or parts of them that have a `param`, and their rows


def active() -> bool:
    """Whether there are process groups at all: without them nothing is sharded."""
    return dist.is_available() and dist.is_initialized()


def is_dtensor(x: Any) -> bool:
    """Whether a tensor is one piece of a DTensor on each rank."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def any_dtensor(params: Iterable[Tensor]) -> bool:
    """Whether one of many is: their types are few."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and any(issubclass(kind, module.DTensor) for kind in {*map(type, params)})


def local(p: Tensor, g: Tensor, *moments: Tensor) -> tuple[Tensor, ...]:
    """p, its gradient and moments as this rank's plain tensors; p and moments share memory with the given.

    A gradient is first redistributed to p's placements (TP leaves it partial, or replicated beside a shard).
    Raises RuntimeError for a partial parameter, and for a gradient or moment that does not match p.
    """
    if not is_dtensor(p):
        return (p, g, *moments)
    if torch.is_grad_enabled():
        raise RuntimeError("differentiable=True cannot step sharded parameters; leave it False")
    layout: Any = p
    if any(placement.is_partial() for placement in layout.placements):
        raise RuntimeError(
            f"a parameter with placements {layout.placements} cannot be stepped: its value is a sum that no "
            "rank holds; redistribute it to Shard or Replicate placements before building the optimizer"
        )
    ours = [m for m in moments if is_dtensor(m) or (m.ndim and m.shape == p.shape)]  # a pooled v is whole
    for what, x in [("gradient", g), *(("moment", m) for m in ours)]:
        mesh = getattr(x, "device_mesh", None)
        if mesh != layout.device_mesh or (what == "moment" and x.placements != layout.placements):  # type: ignore[attr-defined]
            raise RuntimeError(
                f"the {what} of a sharded parameter of shape {tuple(p.shape)} is not sharded as it is "
                f"({_layout(x)}, not {_layout(p)}): make gradients with DTensor.from_local, and load "
                "states with torch.distributed.checkpoint.state_dict.set_optimizer_state_dict"
            )
    if (gradient := _any(g)).placements != layout.placements:
        g = gradient.redistribute(placements=layout.placements)
    return tuple(shard(x) for x in (p, g, *moments))


def shard(x: Any) -> Tensor:
    """This rank's piece of a DTensor, waited for where it is still under way; a plain tensor itself."""
    piece = x.to_local() if is_dtensor(x) else x
    return piece.wait() if hasattr(piece, "wait") else piece


def start(p: Tensor, piece: Tensor) -> tuple[int, ...]:
    """Where this rank's piece of a parameter begins in it, in each dimension.

    Raises RuntimeError where its elements are not one block of the whole.
    """
    if not is_dtensor(p) or p.shape == piece.shape:
        return (0,) * p.dim()
    if _any(p).device_mesh.get_coordinate() is None:
        return (0,) * piece.dim()  # it has no element
    blocks = _any(p).__create_chunk_list__()  # as torch.distributed.checkpoint asks for them
    if len(blocks) != 1 or tuple(blocks[0].sizes) != tuple(piece.shape):
        raise RuntimeError(
            f"a parameter with placements {_any(p).placements} cannot be cut into slices: what a rank has of "
            "it is not one block; leave it whole in `layers`, or shard it otherwise"
        )
    return tuple(blocks[0].offsets)


def process_groups(p: Tensor, reduce_groups: ReduceGroups | None = None) -> list[Any]:
    """The process groups over which sums of p's layer go: of each mesh dimension that does not replicate p.

    For a plain tensor, what reduce_groups says. (A test for Shard would miss FSDP's strided one beside TP.)
    """
    if not is_dtensor(p):
        groups = list(reduce_groups(p) or ()) if reduce_groups else []
    elif (mesh := _any(p).device_mesh).get_coordinate() is None:
        groups = []
    else:
        places = enumerate(_any(p).placements)
        groups = [mesh.get_group(dim) for dim, placement in places if not placement.is_replicate()]
    return [group for group in groups if group.size() > 1]


class LayerReduction:
    """Turns sums over local shards into sums over whole layers, in place: one message per process group.

    The table has a row for every parameter, or part of one, with a gradient here or not, so that all ranks
    send messages of one size; rows without a gradient are zero. Order and size depend on these alone, of
    which each stands once.
    width: numbers in a row. maximum: largest values in place of sums, and -inf in place of zero.
    """

    def __init__(
        self,
        rows: Iterable[Any],
        width: int,
        reduce_groups: ReduceGroups | None = None,
        maximum: bool = False,
    ) -> None:
        self.width, self.maximum = width, maximum
        self.members: dict[Any, list[Any]] = {}
        known: dict[Any, list[Any]] = {}  # asking a mesh for its groups costs more than the rest
        for row in rows:
            p = _param(row)
            key = (id(_any(p).device_mesh), _any(p).placements) if is_dtensor(p) else p
            if key not in known:
                known[key] = process_groups(p, reduce_groups)
            for group in known[key]:
                self.members.setdefault(group, []).append(row)

    def refuse(self) -> None:
        """Tell the other ranks that this one refuses its step, in place of the sums that they wait for.

        Only on the host, where they can look: on a device they wait, unstepped, for a message that never
        comes.
        """
        self._send({}, refused=True)

    def __call__(self, sums: Sums) -> dict[Any, Tensor]:
        """sums: parameters or parts with rows, [L] or [L, width], as tensors or as writable NumPy arrays.

        Returns the rows of what has none here. Raises RuntimeError where another rank has refused its step.
        """
        rows: dict[Any, Tensor] = {}
        for of_rows, part in sums:
            rows.update(
                zip(of_rows, torch.as_tensor(part).view(len(of_rows), self.width).unbind(), strict=True)
            )
        here = len(rows)
        self._send(rows)
        return dict(islice(rows.items(), here, None))

    def _send(self, rows: dict[Any, Tensor], *, refused: bool = False) -> None:
        empty = -torch.inf if self.maximum else 0.0
        refused_elsewhere = False
        for group, members in self.members.items():
            device = _device(members[0], group)
            if refused and device.type != "cpu":
                continue
            dtype = torch.float32 if device.type == "mps" else torch.float64
            for member in members:
                if member not in rows:
                    rows[member] = torch.full((self.width,), empty, dtype=dtype, device=device)
            mine = [rows[member] for member in members]
            last = torch.full((self.width,), float(refused), dtype=dtype, device=device)
            table = torch.stack([*(row.to(device, dtype) for row in mine), last])
            dist.all_reduce(table, dist.ReduceOp.MAX if self.maximum else dist.ReduceOp.SUM, group=group)
            torch._foreach_copy_(mine, list(table[:-1].unbind()))
            refused_elsewhere |= device.type == "cpu" and bool(table[-1, 0] > 0)
        if refused_elsewhere and not refused:
            raise RuntimeError(
                "another rank has refused its step, and says why: nothing was stepped on this one either"
            )

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank that shares a layer with this one."""
        for group, members in self.members.items():
            votes = torch.tensor([float(flag)], device=_device(members[0], group))
            dist.all_reduce(votes, group=group)
            flag = bool(votes.item())
        return flag


def whole_numel(params: Sequence[Tensor], reduce_groups: ReduceGroups) -> dict[Tensor, int]:
    """Elements of the whole layers of which plain parameters are pieces; 0 for what is no piece."""
    pieces = [p for p in dict.fromkeys(params) if process_groups(p, reduce_groups)]
    counts = torch.tensor([p.numel() for p in pieces], dtype=torch.float64, device="cpu")
    if pieces:
        LayerReduction(pieces, 1, reduce_groups)([(pieces, counts)])
    return dict.fromkeys(params, 0) | dict(zip(pieces, map(int, counts.tolist()), strict=True))


class StepReductions:
    """The messages of one step, in the one order in which every rank sends them.

    A parameter that stands several times is stepped as often, in waves that are counted down to 0. Which
    waves have messages, and to whom, depends on the optimizer's parameters alone, so that ranks agree
    whichever gradients they have. As a context: after an error, the next message tells of the refusal.
    """

    def __init__(
        self, with_gram: Sequence[Any], post: Sequence[Any], groups: ReduceGroups | None, width: int = 4
    ) -> None:
        """with_gram, post: parameters and parts with sums of either kind. width: of a row of gram."""
        self._left = [
            (wave, kind, reduction)
            for kind, width, rows in (("gram", width, with_gram), ("stepsizes", 2, post))
            for wave, of_wave in enumerate(_waves(rows))
            if (reduction := LayerReduction(of_wave, width, groups)).members
        ]
        self._left.sort(key=lambda message: (-message[0], message[1]))
        self.first_wave = self._left[0][0] if self._left else 0

    def gram(self, wave: int, sums: Sums) -> dict[Any, Tensor]:
        """Make the wave's rows of gram those of whole layers, in place; returns rows of layers not given."""
        return self._send(wave, "gram", sums)

    def stepsizes(self, wave: int, sums: Sums) -> dict[Any, Tensor]:
        """Make the wave's rows of stepsize_sum those of whole layers, in place; as gram()."""
        return self._send(wave, "stepsizes", sums)

    def _send(self, wave: int, kind: str, sums: Sums) -> dict[Any, Tensor]:
        if not (self._left and self._left[0][:2] == (wave, kind)):
            return {}
        (_, _, reduction), *left = self._left
        self._left = []  # an error of a message itself, such as another rank's refusal, is not passed on
        elsewhere = reduction(sums)
        self._left = left
        return elsewhere

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *error: Any) -> None:
        if kind is not None and issubclass(kind, Exception) and self._left:
            self._left[0][2].refuse()


def _waves(rows: Iterable[Any]) -> list[list[Any]]:
    """For each wave, counted from 0, the rows that stand more often than its number, in their order."""
    waves: list[list[Any]] = []
    for row, times in Counter(rows).items():
        waves += [[] for _ in range(times - len(waves))]
        for wave in waves[:times]:
            wave.append(row)
    return waves


class WholeLayers:
    """What an optimizer knows of the whole layers of which this rank may hold pieces."""

    def __init__(self, shapes: Iterable[Any] = ()) -> None:
        self.shapes: list[Any] = [*shapes]  # of each group's layers, as they were when it was added
        self.numel: dict[Tensor, int] = {}  # of layers of which only reduce_groups knows; 0: p is whole

    def add_group(self, params: Sequence[Tensor]) -> None:
        """Take note of a new group's layers while they are whole."""
        self.shapes.append(shapes(params))
        self.numel = {}

    def check(self, i: int, params: Sequence[Tensor], reduce_groups: ReduceGroups | None) -> None:
        """Raise RuntimeError where group i has pieces of layers, as engines leave them."""
        if active():
            built_with = self.shapes[i] if i < len(self.shapes) else []
            check_whole(params, built_with, {*chain.from_iterable(self.shapes)}, reduce_groups)

    def is_sharded(self, groups: Iterable[Mapping[str, Any]], reduce_groups: ReduceGroups | None) -> bool:
        """Whether this rank may hold pieces of layers."""
        return active() and (reduce_groups is not None or any_dtensor(_params(groups)))

    def reductions(
        self,
        groups: Sequence[Mapping[str, Any]],
        with_gram: Sequence[Mapping[str, Any]],
        reduce_groups: ReduceGroups | None,
        rows_of: Callable[[Tensor], Sequence[Any]],
        width: int,
    ) -> StepReductions:
        """The messages of a step of these groups: every rank sends them, with a gradient or without.

        rows_of: what of a parameter has a row of sums: itself, or its parts. width: of a row of gram.
        """
        if reduce_groups:
            plain = [p for p in _params(groups) if not is_dtensor(p)]
            if any(p not in self.numel for p in plain):
                self.numel = whole_numel(plain, reduce_groups)
        post = [group for group in groups if group.get("layerwise") == "post"]
        rows, post_rows = ([row for p in _params(part) for row in rows_of(p)] for part in (with_gram, post))
        return StepReductions(rows, post_rows, reduce_groups, width)


def _params(groups: Iterable[Mapping[str, Any]]) -> list[Tensor]:
    return [p for group in groups for p in group["params"]]


def shapes(params: Iterable[Tensor]) -> list[tuple[int, ...] | None]:
    """The whole layers' shapes; None where a lazy module has yet to make one."""
    return [None if torch.nn.parameter.is_lazy(p) else tuple(p.shape) for p in params]


def check_whole(
    params: Sequence[Tensor],
    built_with: Sequence[tuple[int, ...] | None],
    known: Container[tuple[int, ...] | None],
    reduce_groups: ReduceGroups | None,
) -> None:
    """Raise RuntimeError where a parameter is a piece of a layer whose other pieces cannot be found.

    Parameters may be replaced by others, of other sizes too (a grown vocabulary), not by flat pieces.
    built_with: shapes of the group that stood here; known: those of all groups, which may have been moved.
    """
    now = shapes(params)
    fewer = len(now) < len(built_with)
    for old, new in zip(built_with, now, strict=False):
        flat = new is not None and len(new) == 1 and new not in known
        if flat and (fewer or (old is not None and len(old) > 1)):
            raise RuntimeError(
                f"the optimizer was built with {len(built_with)} parameters in a group and finds {len(now)}, "
                f"one of shape {old} now flat, {new}: statistics of whole layers are lost. If the model was "
                "sharded after the optimizer was built, build the optimizer afterwards; engines that swap in "
                "flat partitions (DeepSpeed ZeRO) cannot be used: shard with "
                "torch.distributed.fsdp.fully_shard"
            )
    for p in params:
        if not getattr(p, "_fsdp_flattened", False):
            continue
        if getattr(p, "_is_flat_param", False):
            raise RuntimeError(
                "FullyShardedDataParallel has flattened many layers into one parameter: statistics of layers "
                "are lost; wrap the model with use_orig_params=True and give the optimizer "
                "reduce_groups=aida.fsdp_groups(model), or shard with torch.distributed.fsdp.fully_shard"
            )
        if reduce_groups is None:
            raise RuntimeError(
                "a parameter is one rank's piece of a layer (FullyShardedDataParallel with use_orig_params="
                "True): give the optimizer reduce_groups=aida.fsdp_groups(model), or shard with "
                "torch.distributed.fsdp.fully_shard"
            )


def warn_without_gradients(groups: Iterable[Sequence[Tensor]]) -> None:
    """Warn at a step that finds no gradient at all, as one does whose parameters a wrapper has replaced."""
    trainable = sum(p.requires_grad and p.numel() > 0 for params in groups for p in params)
    if trainable:
        warnings.warn(
            f"none of the optimizer's {trainable} parameters has a gradient: if the model was sharded or "
            "moved after the optimizer was built, it has other parameters now; build it afterwards",
            stacklevel=5,
        )


def fsdp_groups(model: torch.nn.Module) -> ReduceGroups:
    """reduce_groups for a FullyShardedDataParallel model (FSDP1) that was wrapped with use_orig_params=True.

    Each parameter's sums go over the process group that its wrapper shards it over; none for NO_SHARD. Give
    the result to an optimizer of the family: `Aida(model.parameters(), reduce_groups=fsdp_groups(model))`.
    Models that are sharded by fully_shard (FSDP2) need none of it.

    Arguments:
        model: the wrapped model, as it is when the optimizer is built.
    """
    from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
    from torch.distributed.fsdp import ShardingStrategy

    groups: dict[Tensor, list[Any]] = {}
    for wrapper in FSDP.fsdp_modules(model):
        shared = [] if wrapper.sharding_strategy is ShardingStrategy.NO_SHARD else [wrapper.process_group]
        inner = {
            p for other in FSDP.fsdp_modules(wrapper) if other is not wrapper for p in other.parameters()
        }
        groups.update({p: shared for p in wrapper.parameters() if p not in inner})
    return lambda p: groups.get(p, ())


def _any(x: Any) -> Any:
    """For what a type checker cannot know: that this tensor is a DTensor."""
    return x


def _layout(x: Any) -> str:
    return f"placements {x.placements} of {x.device_mesh}" if is_dtensor(x) else "a plain tensor"


def _param(row: Any) -> Tensor:
    return row if isinstance(row, Tensor) else row.param


def _device(row: Any, group: Any) -> torch.device:
    """Its device where the group can send from it, else the group's: offloaded shards, with NCCL alone."""
    device = _param(row).device
    kinds = [device.type for device in group._device_types]
    return device if device.type in kinds else torch.device(kinds[0])
