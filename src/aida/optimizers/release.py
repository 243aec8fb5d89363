"""A step inside backward: each layer is stepped when its gradient is ready, and the gradient is freed."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .. import sharding
from .base import Layerwise


class Released(Tensor):
    """What stands in p.grad for a gradient that is gone: without memory, and every use of it raises.

    zero_grad() takes it away. So clipping, unscaling or accumulation after the step cannot go unseen.
    """

    @staticmethod
    def __new__(cls, p: Tensor) -> Released:
        return Tensor._make_wrapper_subclass(
            cls, p.size(), strides=p.stride(), dtype=p.dtype, device=p.device, requires_grad=False
        )

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Released(shape={tuple(self.shape)})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten.detach.default:  # what assigning p.grad does
            return args[0]
        raise RuntimeError(
            "this gradient is gone: release_gradients stepped its layer in backward and freed it. "
            "Call zero_grad() before each backward; clipping by the global norm, unscaling and accumulation "
            "need all gradients at once: remove() the handle and call optimizer.step()"
        )


class GradientRelease:
    """What release_gradients returns: remove() ends it, and so does leaving a `with` block."""

    def __init__(self, optimizer: Layerwise, process_group: Any) -> None:
        self._optimizer = optimizer
        self._group = process_group
        self._hooks: list[Any] = [optimizer.register_step_pre_hook(_refuse_step)]
        first = 0  # each layer's number in the optimizer keys its rounding
        for i, group in enumerate(optimizer.param_groups):
            for j, p in enumerate(group["params"]):
                if p.requires_grad:
                    self._hooks.append(p.register_post_accumulate_grad_hook(self._stepper(i, first + j)))
            first += len(group["params"])

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def __enter__(self) -> GradientRelease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def _stepper(self, i: int, number: int) -> Any:
        @torch.no_grad()
        def step(p: Tensor) -> None:
            assert p.grad is not None
            if self._group is not None:
                p.grad.div_(dist.get_world_size(self._group))
                dist.all_reduce(p.grad, group=self._group)
            self._optimizer.step_layer(p, i, number)
            p.grad = Released(p)
            # Schedulers ask this mark whether optimizer.step() has been called before theirs.
            self._optimizer._opt_called = True  # type: ignore[attr-defined]

        return step


def release_gradients(
    optimizer: Layerwise, model: torch.nn.Module, process_group: Any = None
) -> GradientRelease:
    """Step each layer in backward as soon as its gradient is ready, and free the gradient.

    Exact, since a layer's statistics need its own gradient alone. Call zero_grad() before each backward,
    never optimizer.step(); schedulers work. Clipping by the global norm and accumulation raise RuntimeError.
    process_group: gradients are averaged over it first, in place of DistributedDataParallel and its buckets.
    Raises TypeError for another optimizer; ValueError for a wrapped or sharded model, parameters that the
    optimizer lacks, and gradients that are there already.
    """
    if not isinstance(optimizer, Layerwise):
        raise TypeError(
            f"release_gradients steps aida's optimizers, not {type(optimizer).__name__}: their statistics "
            "are per layer, so that stepping layers one by one is exact"
        )
    _check_model(optimizer, model)
    return GradientRelease(optimizer, process_group)


def is_released(optimizer: Any) -> bool:
    """Whether release_gradients steps this optimizer."""
    return _refuse_step in optimizer._optimizer_step_pre_hooks.values()


def _check_model(optimizer: Layerwise, model: torch.nn.Module) -> None:
    if hasattr(model, "reducer"):  # DistributedDataParallel
        raise ValueError(
            "release_gradients cannot work inside DistributedDataParallel, which keeps gradients in buckets: "
            "give the bare model and process_group=torch.distributed.group.WORLD"
        )
    stepped = {p for group in optimizer.param_groups for p in group["params"]}
    trained = {p for p in model.parameters() if p.requires_grad}
    if trained - stepped:
        raise ValueError(
            f"{len(trained - stepped)} of the model's {len(trained)} trainable parameters are not in the "
            "optimizer, so that their gradients would never be freed: build it with model.parameters()"
        )
    if any(sharding.is_dtensor(p) or getattr(p, "_fsdp_flattened", False) for p in stepped):
        raise ValueError(
            "release_gradients needs whole layers on each rank, but the model is sharded: its gradients are "
            "sharded too, so call optimizer.step() as usual"
        )
    if any(p.grad is not None and not isinstance(p.grad, Released) for p in stepped):
        raise ValueError("there are gradients already: call optimizer.zero_grad() before release_gradients")


def _refuse_step(optimizer: Any, args: Any, kwargs: Any) -> None:
    raise RuntimeError(
        "release_gradients has stepped every layer in backward: remove this call of optimizer.step(), or "
        "remove() the handle first"
    )
