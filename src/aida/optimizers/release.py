"""A step inside backward: each layer is stepped when its gradient is ready, and the gradient is freed."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Container, Iterable
from itertools import count
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.variable import Variable

from .. import sharding
from .base import Layerwise
from .freed_gradient import FreedGradient, take_away
from .layers import Layering
from .process_lock import ProcessLock

WAITING_BYTES = 2**20  # of gradients that wait to be stepped together

Place = tuple[int, int]  # index of a group; the parameter's place in the optimizer


class GradientRelease:
    """What release_gradients returns: remove() ends it, and so does leaving a `with` block.

    The optimizer keeps it; it knows optimizer, model and parameters by weak references alone.
    """

    def __init__(self, optimizer: Layerwise, process_group: Any) -> None:
        self.process_group = process_group
        self._optimizer = weakref.ref(optimizer)
        # Layers whose gradient is ready, by their places: a backward that failed may have left some.
        self._waiting: dict[int, tuple[int, int, Tensor]] = {}
        self._waiting_bytes = 0
        self._shared = _Shared(optimizer.layering)
        self._lock = ProcessLock()
        self._task: int | None = None  # the backward whose end is waited for
        self._reached = False  # whether a backward has come to any watched parameter since zero_grad()
        self._hooks: list[_Hook] = []
        self._order = _InOrder(self, process_group) if process_group is not None else None
        self.watch()

    def watch(self) -> None:
        """Step every parameter in backward, where the groups have it now: users add, remove and sort them.

        Frozen ones too: they may be trained later.
        """
        optimizer = self.optimizer()
        _ = optimizer.layering  # which looks at the groups of now
        numbers = count()
        places: dict[Any, list[Place]] = {}
        for i, group in enumerate(optimizer.param_groups):
            for p in group["params"]:
                number = next(numbers)
                if _may_need_gradient(p):
                    places.setdefault(p, []).append((i, number))
        for hook in self._hooks:
            hook.places = places.pop(hook.parameter(), [])
            if not hook.places:
                hook.handle.remove()
        if not all(hook.places for hook in self._hooks):
            optimizer.forget_layers()  # which would keep what groups no longer have
        self._hooks = [hook for hook in self._hooks if hook.places]
        self._hooks += [_Hook(self, p, of_p) for p, of_p in places.items()]

    def begin(self) -> None:
        """Before each backward, as zero_grad() says: watch what the groups have now.

        Warns of a backward that has trained nothing, which no watched parameter could tell. Raises ValueError
        where step hooks were registered since.
        """
        self.optimizer().check_without_step_hooks()
        self.watch()
        self._shared.begin()
        reached, self._reached = self._reached, False
        params = [p for group in self.optimizer().param_groups for p in group["params"]]
        take_away(params)
        kept = [p.grad for p in params if p.grad is not None]
        if not reached and any(grad.is_sparse or grad.any() for grad in kept):
            warnings.warn(
                f"a backward has stepped nothing, and left gradients in {len(kept)} of the optimizer's "
                "parameters: they took their place in its groups after zero_grad(), where release_gradients "
                "looks for new ones; from now on they are stepped; replace parameters before zero_grad()",
                stacklevel=4,
            )

    def remove(self) -> None:
        """End it: steps are taken by optimizer.step() again, of gradients that come from now on."""
        for hook in self._hooks:
            hook.handle.remove()
            if (p := hook.parameter()) is not None:
                take_away([p])
        self._hooks.clear()
        if (optimizer := self._optimizer()) is not None and optimizer.released_by is self:
            optimizer.released_by = None
            optimizer.forget_layers()

    def __enter__(self) -> GradientRelease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def ready(self, p: Tensor, hook: _Hook) -> None:
        """A layer's gradient is complete."""
        self._reached = True
        if (task := torch._C._current_graph_task_id()) != self._task:  # another backward than the last one
            self._task = task
            Variable._execution_engine.queue_callback(self._finish)
            self.watch()
            self._shared.begin_backward()
        if self._order is None:
            self.collect(p, hook.places)
        else:
            for _, number in hook.places:
                self._order.ready(p, number)

    def collect(self, p: Tensor, places: Iterable[Place]) -> None:
        """Step a large layer, and small ones together: a step of its own costs each more than its kernel."""
        with self._lock:  # each device has a thread of its own in backward
            self._waiting_bytes += self._shared.ready(p)
            for group_index, number in places:
                self._waiting[number] = group_index, number, p
            if self._waiting_bytes >= WAITING_BYTES:
                self._step_waiting(self._shared.incomplete())

    def _finish(self) -> None:
        """At the end of backward."""
        self._task = None
        if self._order is not None:
            self._order.finish()
        with self._lock:
            self._shared.end()
            self._step_waiting()

    @torch.no_grad()
    def _step_waiting(self, kept: Container[Tensor] = ()) -> None:
        """Step what waits, but what is kept back."""
        waiting = [layer for layer in self._waiting.values() if layer[2] not in kept]
        self._waiting = {number: layer for number, layer in self._waiting.items() if layer[2] in kept}
        self._waiting_bytes = 0
        waiting = [layer for layer in waiting if not isinstance(layer[2].grad, FreedGradient | None)]
        if not waiting:
            return
        optimizer = self.optimizer()
        optimizer.step_layers(waiting)
        for _, _, p in waiting:
            if (grad := p.grad) is not None:  # whose type may be another than p's
                p.grad = FreedGradient(grad)

    def optimizer(self) -> Layerwise:
        """RuntimeError where it is gone."""
        optimizer = self._optimizer()
        if optimizer is None:
            raise RuntimeError(
                "the optimizer that release_gradients stepped is gone, and its parameters are not trained: "
                "keep a reference to it"
            )
        return optimizer


class _Shared:
    """Layers of several tensors, each of which waits for the others until the end of backward."""

    def __init__(self, layering: Layering) -> None:
        self._layering = layering
        self._ready: dict[str, dict[Tensor, int]] = {}  # of layers that are not complete: bytes of gradients
        self._stepped: set[str] = set()  # since zero_grad()

    def begin(self) -> None:
        """As zero_grad() says."""
        self._ready.clear()
        self._stepped.clear()

    def begin_backward(self) -> None:
        """Layers whose gradients are gone altogether, by model.zero_grad() or by hand, are stepped anew."""
        members = self._layering.members
        self._stepped = {
            key for key in self._stepped if any(isinstance(p.grad, FreedGradient) for p in members(key))
        }

    def ready(self, p: Tensor) -> int:
        """The bytes of gradients that can be stepped now that p's is ready.

        Raises RuntimeError where the rest of p's layer has been stepped without it.
        """
        size = p.numel() * p.element_size()
        if not self._layering.shares or (key := self._layering.key(p)) is None:
            return size
        if key in self._stepped:
            raise RuntimeError(
                f"tensors of layer {key!r} have their gradients in different backwards, and release_gradients"
                " has stepped those of the first: give them in one backward, or remove() the handle and call "
                "optimizer.step()"
            )
        ready = self._ready.setdefault(key, {})
        ready[p] = size
        if any(q.requires_grad and q not in ready for q in self._layering.members(key)):
            return 0
        self._stepped.add(key)
        return sum(self._ready.pop(key).values())

    def incomplete(self) -> set[Tensor]:
        """What has to wait for other tensors of its layer."""
        return {p for ready in self._ready.values() for p in ready}

    def end(self) -> None:
        """At the end of backward layers are stepped as they are."""
        self._stepped |= {*self._ready}
        self._ready.clear()


class _Hook:
    """What torch calls when a parameter's gradient is complete, and where the optimizer has the parameter."""

    def __init__(self, release: GradientRelease, p: Tensor, places: list[Place]) -> None:
        self._release = weakref.ref(release)  # torch's hooks are not seen by the garbage collector
        self.parameter = weakref.ref(p)
        self.places = places
        trained = p.requires_grad
        try:  # torch hooks only what needs a gradient when it is hooked
            p.requires_grad_(True)
            self.handle = p.register_post_accumulate_grad_hook(self)
        finally:
            p.requires_grad_(trained)

    def __call__(self, p: Tensor) -> None:
        if (release := self._release()) is not None:
            release.ready(p, self)


class _InOrder:
    """Gradients averaged over a process group, layer after layer, from the last to the first, on every rank.

    Backward may reach layers in another order on another rank, and not all of them (stochastic depth): a
    layer waits for those before it, and at the end of backward a rank gives zeros for what it has not
    reached. A layer that no rank has reached is not stepped. So messages belong to layers, and replicas stay
    equal.
    """

    def __init__(self, handle: GradientRelease, process_group: Any) -> None:
        self._handle = weakref.ref(handle)
        self._group = process_group
        self._ready: dict[int, Tensor] = {}
        self._next: int | None = None  # the layer whose turn it is; None outside of backward

    def ready(self, p: Tensor, number: int) -> None:
        layers = self._layers()
        if self._next is None:
            self._next = len(layers) - 1
        if number > self._next:
            self._next = None
            self._ready.clear()
            raise RuntimeError(
                "a backward has ended early on this rank, and replicas differ: load a checkpoint on all "
                "ranks (within torch.utils.checkpoint, use_reentrant=False is needed)"
            )
        self._ready[number] = p
        while self._next >= 0 and self._next in self._ready:
            self._average_and_step(*layers[self._next], self._next)
            self._next -= 1

    def finish(self) -> None:
        """At the end of backward: all layers that are left, reached or not."""
        layers = self._layers()
        first, self._next = self._next, None
        if first is None:
            return
        try:
            for number in range(first, -1, -1):
                self._average_and_step(*layers[number], number)
        finally:
            self._ready.clear()

    @torch.no_grad()
    def _average_and_step(self, p: Tensor, group_index: int, number: int) -> None:
        if not _may_need_gradient(p):
            return
        here = self._ready.pop(number, None) is not None
        dtype = getattr(p, "grad_dtype", None) or p.dtype
        grad = p.grad if here and p.grad is not None else torch.zeros_like(p, dtype=dtype)
        flat = (torch.view_as_real(grad) if grad.is_complex() else grad).reshape(-1)
        message = torch.cat([flat, torch.full((1,), float(here), dtype=flat.dtype, device=flat.device)])
        dist.all_reduce(message, group=self._group)
        if not here and not message[-1] > 0:
            return
        flat = message[:-1].div_(dist.get_world_size(self._group))
        whole = (
            torch.view_as_complex(flat.view(*grad.shape, 2)) if grad.is_complex() else flat.view(grad.shape)
        )
        p.grad = torch.empty_like(p, dtype=grad.dtype).copy_(whole)
        handle = self._handle()
        assert handle is not None
        handle.collect(p, [(group_index, number)])

    def _layers(self) -> list[tuple[Tensor, int]]:
        handle = self._handle()
        assert handle is not None
        groups = handle.optimizer().param_groups
        return [(p, i) for i, group in enumerate(groups) for p in group["params"]]


def release_gradients(
    optimizer: Layerwise, model: torch.nn.Module, process_group: Any = None
) -> GradientRelease:
    """Step each layer in backward as soon as its gradient is ready, and free the gradient.

    Layers wait until the gradients that are ready amount to 1 MiB, or for the end of backward. Exact, since a
    layer's statistics need its own gradients alone; where a layer has several tensors, they wait for each
    other, or for the end of backward. Call optimizer.zero_grad() before each backward, never
    optimizer.step(); schedulers work. Clipping by the global norm, accumulation and GradScaler, which need
    all gradients at once, raise RuntimeError at their first use of a gradient. Step hooks are not called.
    What is unfrozen or added by add_param_group later is trained too, and groups may be edited before
    zero_grad(), which warns where a backward has stepped nothing of what it gave a gradient. A second call
    returns the first handle.

    Arguments:
        optimizer: one of this family.
        model: the bare model whose trainable parameters the optimizer has.
        process_group: gradients are averaged over it first, layer by layer in one order on every rank, in
            place of DistributedDataParallel and its buckets. A layer that some ranks do not reach counts as
            zero there; one that no rank reaches is not stepped. Every rank's backward has to reach at least
            one layer. Default: None, one process.

    Returns a handle: remove() ends it, and so does leaving a `with` block.

    Raises TypeError for another optimizer; ValueError for one that mixes layers, a wrapped or sharded model,
    parameters that the optimizer lacks, gradients that are there already, an optimizer with step hooks, and a
    second call with another process group.

    Example:
        >>> import aida, torch
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = aida.Aida(model.parameters())
        >>> with aida.release_gradients(optimizer, model):
        ...     optimizer.zero_grad()
        ...     model(torch.ones(4, 3)).square().mean().backward()  # steps
        >>> optimizer.state[model.weight]["step"]
        tensor(1.)
    """
    if not isinstance(optimizer, Layerwise):
        raise TypeError(
            f"release_gradients steps aida's optimizers, not {type(optimizer).__name__}: their statistics "
            "are per layer, so that stepping layers one by one is exact"
        )
    if optimizer.mixes_layers:
        raise ValueError(
            f"{type(optimizer).__name__} mixes layers, and release_gradients steps each as soon as its "
            "gradient is ready, before others have one: call optimizer.step() as usual"
        )
    _check_model(optimizer, model)
    handle = optimizer.released_by
    if handle is not None and handle.process_group is not process_group:
        raise ValueError(
            "release_gradients is at work on this optimizer with another process_group: "
            "remove() its handle first"
        )
    if handle is None:
        optimizer.check_without_step_hooks()
        optimizer.released_by = handle = GradientRelease(optimizer, process_group)
    return handle


def is_released(optimizer: Any) -> bool:
    """Whether release_gradients steps this optimizer."""
    return getattr(optimizer, "released_by", None) is not None


def _may_need_gradient(p: Tensor) -> bool:
    """What torch can ever give a gradient: not integers, nor what inference mode has made."""
    return (p.is_floating_point() or p.is_complex()) and not p.is_inference()


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
    if any(p.grad is not None and not isinstance(p.grad, FreedGradient) for p in stepped):
        raise ValueError("there are gradients already: call optimizer.zero_grad() before release_gradients")
