"""How an optimizer is saved, loaded, copied and pickled."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.optimizer import Optimizer

from .. import sharding
from .foreign import SAVED_BY, check_is_mapping, check_keys, member_name
from .layer_cache import LayerCache
from .layers import SAVED_LAYERS, Layering
from .member import Member
from .process_lock import ProcessLock
from .saved import check_entries
from .state import complete_groups, is_state_init_step, renew_counters, restore_types


class Checkpointed(Member):
    """An optimizer whose state dict says which member saved it, and whose moments keep their types."""

    reduce_groups: sharding.ReduceGroups | None
    _layering: Layering
    released_by: Any
    """The handle of release_gradients, which steps in place of step()."""
    _loaded: dict[str, Any]
    """While a load goes on, the state dict as it was given."""

    @property
    def layering(self) -> Layering:
        """What the layers of the parameters are that the groups have now, which users may have replaced."""
        if not self._layering.is_plain and not torch.compiler.is_compiling():
            self._layering.update(self.param_groups)
        return self._layering

    def _begin_anew(self) -> None:
        """Forget what earlier steps have found: nothing of it holds for a state that was loaded."""
        self._layers = LayerCache(self._whole, type(self).__name__, self.hyperparameters, self._layering)
        self._rules = {}
        self._lock = ProcessLock()
        self._fresh = not self.state  # never stepped or loaded

    def _is_state_init_step(self) -> bool:
        """Whether checkpoint tools take this first step to make the state; it makes it."""
        if torch.compiler.is_compiling():
            return False
        self._fresh = False
        return is_state_init_step(self.param_groups, self.state, self.reduce_groups, self.layering)

    def __getstate__(self) -> dict[str, Any]:
        shapes = self._whole.shapes
        kept = {"reduce_groups": self.reduce_groups, "layers": self._layering.layers, "_shapes": shapes}
        if not self._layering.is_plain:  # a loaded state may have given the groups other names
            kept["_layer_names"] = self.layering.names(self.param_groups)
        if self.reduce_groups is not None:
            kept["_pieces"] = self._which_are_pieces(self.param_groups, self.reduce_groups)
        return {**super().__getstate__(), **kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Raises ValueError for another optimizer's state and for values that no group may have."""
        defaults = state.get("defaults") or self.defaults
        layers, shapes = state.pop("layers", "tensor"), state.pop("_shapes", None)
        names, pieces = state.pop("_layer_names", ()), state.pop("_pieces", None)
        if pieces is not None and pieces != self._which_are_pieces(
            state["param_groups"], state["reduce_groups"]
        ):
            raise ValueError(
                f"a copy of this {type(self).__name__} has parameters of its own, of which its reduce_groups "
                "knows nothing: its statistics would be of pieces of layers; copy and wrap the model, build "
                "a new optimizer of it, and load the state_dict() of this one"
            )
        if (layering := self.__dict__.get("_layering")) is None:
            layering = Layering(layers)
            layering.update(state["param_groups"], names)
        complete_groups(type(self), self.hyperparameters, defaults, state, layering)
        super().__setstate__(state)
        self._layering = layering
        # A load leaves it to release_gradients' handle who steps; a copy has no handle.
        if "_whole" not in self.__dict__:
            groups = (group["params"] for group in self.param_groups)
            self._whole = sharding.WholeLayers([*map(sharding.shapes, groups)] if shapes is None else shapes)
            self.released_by = None
            self.__dict__.setdefault("reduce_groups", None)
        self._begin_anew()
        renew_counters(self.param_groups, self.state)
        if (loaded := self.__dict__.pop("_loaded", None)) is not None:  # hooks after a load see the result
            restore_types(self.param_groups, self.state, loaded)

    @staticmethod
    def _which_are_pieces(groups: list[dict[str, Any]], reduce_groups: sharding.ReduceGroups) -> list[bool]:
        params = (p for group in groups for p in group["params"])
        return [bool(sharding.process_groups(p, reduce_groups)) for p in params]

    def state_dict(self) -> dict[str, Any]:
        """As torch's; each group says in `saved_by` which member saved it, so that no other loads it.

        A subclass without a rule of its own saves and loads as the member that it extends. States of versions
        that did not write the key load too, and so does one from which it is removed (a renamed class). Where
        `layers` is not "tensor", `layers` says in the same way what they are.
        """
        saved, layering = super().state_dict(), self.layering
        for group, live in zip(saved["param_groups"], self.param_groups, strict=True):
            group[SAVED_BY] = member_name(type(self))
            if not layering.is_plain:
                group[SAVED_LAYERS] = layering.described(live["params"])
        return saved

    @torch.inference_mode(False)
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but moments keep their type, which torch casts to the parameter's.

        Raises TypeError for what is no state dict of an optimizer, ValueError for another optimizer's state
        and for one that is damaged; whatever it raises, nothing has changed.
        """
        who = type(self).__name__

        def look(_: Optimizer, seen: dict[str, Any]) -> None:
            check_keys(f"{who}.load_state_dict takes the dict that {who}.state_dict() gave", seen)
            check_entries(who, seen, self.param_groups)
            self._loaded = seen

        check_is_mapping(who, state_dict)
        self._layering.update(self.param_groups)  # with names of the groups as they are
        before = {**self.__dict__}
        hook = self.register_load_state_dict_pre_hook(look)
        try:
            super().load_state_dict(state_dict)
        except BaseException:  # a load makes new groups and states, and writes to none that is there
            self.__dict__.clear()
            self.__dict__.update(before)
            raise
        finally:
            hook.remove()
