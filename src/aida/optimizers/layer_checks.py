"""What must be true of a layer's tensors before it is stepped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import sharding
from ..backends import blockwise
from ..backends import tensors as memory

MOMENTS = ("exp_avg", "exp_avg_var")
SCALES = ("exp_avg_scale", "exp_avg_var_scale")  # of those that are codes of 8 bits


def check_layout(i: int, p: Tensor, g: Tensor, who: str) -> None:
    """Raise RuntimeError for a sparse gradient or parameter, for 8 bits, which torch cannot widen, and for
    a leaf that a differentiable step would write to.

    i: p's place in its group, of `who`.
    """
    if p.is_floating_point() and p.dtype.itemsize == 1:
        raise RuntimeError(
            f"{who} cannot step parameters of 8 bits (parameter {i} of its group is {p.dtype}): nothing was "
            "stepped; keep it in torch.bfloat16 or a wider type, or freeze it by requires_grad_(False)"
        )
    if p.requires_grad and p.is_leaf and torch.is_grad_enabled() and not sharding.is_dtensor(p):
        raise RuntimeError(
            f"parameter {i} of its group is a leaf that requires grad, which a step with differentiable=True "
            "cannot write to: nothing was stepped; give the optimizer what is computed from it, such as "
            "p.clone(), or leave differentiable False"
        )
    if g.layout is not torch.strided or p.layout is not torch.strided:
        raise RuntimeError(
            f"{who} does not support sparse gradients or parameters (parameter {i} of its group is "
            f"{p.layout}, its gradient {g.layout}): nothing was stepped; build the layer with sparse=False, "
            "or give its parameters to torch.optim.SparseAdam"
        )


def check_layer(
    i: int, p: Tensor, g: Tensor, of_p: dict[str, Any], group: dict[str, Any], who: str, slices: int = 0
) -> None:
    """Raise RuntimeError unless a parameter, its gradient and its state belong together.

    slices: how many layers the parameter is cut into, 0 where it is not cut.
    """
    if missing := [name for name in ("step", *MOMENTS) if not isinstance(of_p.get(name), Tensor)]:
        raise RuntimeError(
            f"the state of parameter {i} of its group has no tensor {missing[0]!r}: nothing was stepped; "
            f"load a state that {who} saved, or empty the parameter's state so that it begins anew"
        )
    m, v = (of_p[name] for name in MOMENTS)
    pooled = group.get("layerwise") == "pre"
    if pooled and (why := of_other_layers(p, v, slices)):
        raise RuntimeError(
            f"exp_avg_var of parameter {i} of its group {why}: nothing was stepped; load a state that was "
            "saved with the same `layers`, or empty the parameter's state so that it begins anew"
        )
    if v.dim() > (slices > 0) if pooled else v.dim() == 0 and p.dim() != 0:
        has, needs = ("layer", "element") if v.dim() == 0 else ("element", "layer")
        raise RuntimeError(
            f"exp_avg_var of parameter {i} of its group is one number per {has}, and "
            f"layerwise={group.get('layerwise')!r} needs one per {needs}: nothing was stepped; load a state "
            "that was saved with the same layerwise"
        )
    if pooled and v.dtype not in (torch.float32, torch.float64):
        raise RuntimeError(
            f"exp_avg_var of parameter {i} of its group is {v.dtype}, and one number per layer is kept in "
            "torch.float32 or torch.float64: nothing was stepped; convert it back"
        )
    coded = _check_codes(i, p, of_p, pooled)
    names = ("parameter", "gradient", "exp_avg", "exp_avg_var")
    for what, x in zip(names, (p, g, m, v), strict=True):
        which = f"the {what} of parameter {i} of its group" if x is not p else f"parameter {i} of its group"
        _check_like(which, p, x, pooled=what == "exp_avg_var" and pooled, coded=what in coded)
        _check_memory(which, x, written=x is not g)
    _check_apart(i, p, m, v, *(of_p[name] for name in SCALES if name in of_p))
    _check_counter(f"the step counter of parameter {i} of its group", p, of_p["step"])


def of_other_layers(p: Tensor, v: Tensor, slices: int) -> str | None:
    """What is wrong with a pooled v that has one number for each of another count of layers; else None."""
    if v.dim() > 1 or (v.shape == p.shape and not slices) or v.shape == ((slices,) if slices else ()):
        return None
    return f"has {v.numel()} numbers, one per layer, and the parameter is {slices or 1} layers here"


def coded(of_p: Mapping[str, Any]) -> tuple[str, ...]:
    """Which moments of a parameter's state are codes of 8 bits."""
    return tuple(
        name
        for name, dtype in zip(MOMENTS, blockwise.CODES, strict=True)
        if getattr(of_p.get(name), "dtype", None) is dtype
    )


def _check_codes(i: int, p: Tensor, of_p: dict[str, Any], pooled: bool) -> tuple[str, ...]:
    """coded(of_p). Raise RuntimeError unless codes and scales belong together."""
    codes = coded(of_p)
    scales = {name: of_p[scale] for name, scale in zip(MOMENTS, SCALES, strict=True) if scale in of_p}
    if codes != (MOMENTS[: 1 if pooled else 2] if codes else ()) or {*scales} != {*codes}:
        has = " and ".join(f"{name} of {of_p[name].dtype}" for name in MOMENTS)
        raise RuntimeError(
            f"the state of parameter {i} of its group has {has}, and scales of "
            f"{' and '.join(scales) or 'neither'}, which are not moments of one form: nothing was stepped; "
            "load a state as it was saved, or empty the parameter's state so that it begins anew"
        )
    n = blockwise.blocks(p.numel())
    for name, x in scales.items():
        which = f"of {name} of parameter {i} of its group"
        if not isinstance(x, Tensor) or (x.shape, x.dtype, x.device) != ((n,), torch.float32, p.device):
            is_now = (
                f"{x.dtype} of shape {tuple(x.shape)} on {x.device}" if isinstance(x, Tensor) else repr(x)
            )
            raise RuntimeError(
                f"the scales {which} are {is_now}, not {n} of torch.float32 on {p.device}: nothing was "
                "stepped; load the optimizer's state again"
            )
        if not (of_p[name].is_contiguous() and x.is_contiguous()) or x.is_neg() or of_p[name].is_neg():
            raise RuntimeError(
                f"the codes or scales {which} are not contiguous: nothing was stepped; clone() them by "
                "clone(memory_format=torch.contiguous_format)"
            )
        _check_memory(f"the scales {which}", x, written=True)
    return codes


def _check_counter(which: str, p: Tensor, step: Tensor) -> None:
    if step.numel() != 1:
        raise RuntimeError(
            f"{which} has shape {tuple(step.shape)}, not one element: nothing was stepped; load the "
            "optimizer's state again"
        )
    if (
        step.dtype.itemsize == 1
        or step.is_complex()
        or step.is_neg()
        or step.device.type not in ("cpu", p.device.type)
    ):
        kind = "a negated view" if step.is_neg() else f"{step.dtype} on {step.device}"
        raise RuntimeError(
            f"{which} is {kind}, not a real number of 16 bits or more on the CPU or beside the "
            "parameter: nothing was stepped; load the optimizer's state again"
        )
    _check_memory(which, step, written=True)


def _check_like(which: str, p: Tensor, x: Tensor, *, pooled: bool, coded: bool) -> None:
    if x.shape != p.shape and not pooled:
        raise RuntimeError(
            f"{which} has shape {tuple(x.shape)}, and the parameter {tuple(p.shape)}: nothing was stepped; "
            "give a parameter that changes its shape a new gradient and a new state"
        )
    if x.device != p.device:
        raise RuntimeError(
            f"{which} is on {x.device}, and the parameter on {p.device}: nothing was stepped; move the "
            "model before its optimizer is made, or load the optimizer's state again"
        )
    if x.is_complex() != p.is_complex() and not pooled:
        raise RuntimeError(
            f"{which} is {x.dtype}, and the parameter {p.dtype}: nothing was stepped; load the optimizer's "
            "state again after the model has changed its type"
        )
    if not x.is_floating_point() and not x.is_complex() and not coded:
        raise RuntimeError(
            f"{which} is {x.dtype}, not a type of real or complex numbers: nothing was stepped; convert "
            "it, or freeze the parameter by requires_grad_(False)"
        )


def _check_memory(which: str, x: Tensor, *, written: bool) -> None:
    """Raise RuntimeError unless each element of a plain tensor has memory, and of its own if written."""
    if written and x.is_conj():
        raise RuntimeError(
            f"{which} is a conjugated view, whose numbers are in no memory that could be written to: nothing "
            "was stepped; replace it by resolve_conj() of it"
        )
    if type(x) not in memory.PLAIN:
        return
    if x.layout is not torch.strided:
        raise RuntimeError(
            f"{which} is {x.layout}, not a dense tensor: nothing was stepped; convert it back by to_dense()"
        )
    if not memory.fits(x):
        raise RuntimeError(
            f"{which}, of shape {tuple(x.shape)}, has no memory for it, but {x.untyped_storage().nbytes()} "
            "bytes: its storage was freed or made smaller; nothing was stepped; restore it, or set the "
            "gradient to None"
        )
    if written and x.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError(
            f"{which} was made in torch.inference_mode(), outside of which it cannot be written: nothing was "
            "stepped; make it outside, or clone() it"
        )
    if written and memory.overlaps_itself(x):
        raise RuntimeError(
            f"{which}, of shape {tuple(x.shape)} and strides {x.stride()}, keeps several elements in one "
            "place of memory, as expand() makes it: nothing was stepped; clone() it"
        )


def _check_apart(i: int, p: Tensor, *state: Tensor) -> None:
    written = (p, *state)
    if not memory.PLAIN.issuperset(map(type, written)) or not p.numel() or p.device.type == "meta":
        return
    if len({x.data_ptr() for x in written}) < len(written):
        scales = ", or the scales of these," if len(written) > 3 else ""
        raise RuntimeError(
            f"parameter {i} of its group, its exp_avg and its exp_avg_var{scales} are not tensors of their "
            "own, but share memory: nothing was stepped; clone() them, or load the optimizer's state again"
        )


def without_codes(i: int, p: Tensor, *, is_cut: bool, is_piece: bool = False) -> str | None:
    """Why parameter i of a group cannot have moments of 8 bits, and what to do: pieces cut through blocks."""
    if not (is_cut or is_piece or sharding.is_dtensor(p)):
        return None
    what = "cut into slices by `layers`" if is_cut else "a piece of a sharded layer"
    return (
        f"state_dtype='int8' keeps one scale for {blockwise.BLOCK} elements, and parameter {i} of its group "
        f"is {what}, whose ends need not be those of such blocks: set state_dtype='bfloat16'"
    )


def check_codes_of_group(group: Mapping[str, Any], is_cut: Callable[[Tensor], Any]) -> None:
    """Raise ValueError where a group asks for moments of 8 bits that its parameters cannot have."""
    if group.get("state_dtype") == "int8":
        for i, p in enumerate(group["params"]):
            if why := without_codes(i, p, is_cut=bool(is_cut(p))):
                raise ValueError(why)
