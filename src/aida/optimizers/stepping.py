"""A step of an optimizer's groups, or of some of its layers: gathered, checked, then run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from .. import sharding
from ..backends.contract import SUMS
from .checkpoint import Checkpointed
from .layer_batch import GroupPart, some_layers
from .layers import Layering
from .step import StepBatch, needs_gram, prepare_step, run, scales_gradients, sums_taken


class Stepping(Checkpointed):
    """An optimizer that steps all of its layers in step(), and any of them when asked to."""

    @torch.no_grad()
    def step_layers(self, layers: Iterable[tuple[int, int, Tensor]]) -> None:
        """Step these layers alone, as step() would: (index of a group, place in the optimizer, parameter)."""
        with self._lock:
            self._fresh = False
            self._step(some_layers(layers))
        self._opt_called = True  # by which schedulers know that they do not come before the first step

    def forget_layers(self) -> None:
        """Keep nothing of earlier steps: the next one gathers and checks its layers anew."""
        with self._lock:
            self._layers.clear()

    def check_without_step_hooks(self) -> None:
        """Raise ValueError where hooks are registered that step() calls and step_layers() does not."""
        of_this = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
        of_all = _global_optimizer_pre_hooks or _global_optimizer_post_hooks
        if of_this or of_all:
            whose = "the optimizer has" if of_this else "torch has, for all optimizers,"
            raise ValueError(
                f"{whose} step hooks, which are never called where release_gradients steps layers in "
                "backward: remove them, or remove() the handle and call optimizer.step()"
            )

    def _step(self, parts: Sequence[GroupPart], sharded: bool = False) -> None:
        """layer_batch -> prepare_step -> run: everything is checked before anything is written."""
        layering = self.layering
        reductions = self._reductions(layering) if sharded else None
        scaling: dict[str, Any] = {name: getattr(self, name, None) for name in ("grad_scale", "found_inf")}
        in_use = nullcontext() if torch.compiler.is_compiling() else self._layers.in_use(self.param_groups)
        with in_use, reductions or nullcontext():
            groups, rules = [], []
            for part in parts:
                groups.append(group := self.param_groups[part.group])
                if not torch.compiler.is_compiling():
                    self._layers.check_values(part.group, group)
                rules.append(self._kept_rule(part.group))
            sums = sums_taken(rules, groups, layering.shares)
            found = self._layers.find(parts, groups, self.state, [*map(bool, sums)], self.reduce_groups)
            steps: list[StepBatch] = []
            for batches, group, rule, taken in zip(found, groups, rules, sums, strict=True):
                steps += prepare_step(
                    batches, group, rule=rule, sums=taken, eps_outside=self.eps_outside, **scaling
                )
            run(steps, self.state, reductions, layering if layering.shares else None)

    def _reductions(self, layering: Layering) -> sharding.StepReductions:
        def takes_sums(group: dict[str, Any]) -> bool:
            try:
                return needs_gram(self.rule_of(group), group)
            except (TypeError, ValueError, RuntimeError, KeyError):  # of a value that is about to be refused
                return True

        with_gram = [group for group in self.param_groups if takes_sums(group)]
        if with_gram and layering.shares:  # as sums_taken
            with_gram = self.param_groups
        width = len(SUMS) + layering.shares  # with the number of elements, see shared_layers.py
        return self._whole.reductions(self.param_groups, with_gram, self.reduce_groups, layering.rows, width)

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """GradScaler asks whether the step itself divides by grad_scale and reads found_inf.

        With fused=True alone, as in torch: trainers that clip gradients take it as a reason to refuse.
        """
        return all(
            group["fused"] is True and scales_gradients(p, group)
            for group in self.param_groups
            for p in group["params"]
        )
