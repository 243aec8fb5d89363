"""What a class of the family is made of: a rule and its hyperparameters, with what follows from them."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

from torch.optim.optimizer import Optimizer

from .. import family
from ..sharding import ReduceGroups
from .define import OF_GROUPS, own_hyperparameters, plain_rule
from .hyperparameter import Hyperparameter
from .options import OPTIONS, Options
from .rule import BoundRule, Rule


class Member(Optimizer):
    """An optimizer whose class has a rule; each of its groups has values of the rule's hyperparameters."""

    rule: ClassVar[Any]  # a constant (alpha, beta), or a function of sums and hyperparameters
    own: ClassVar[Any] = Options()  # arguments that not every member has: defaults, or Hyperparameters
    mixes_layers: ClassVar[bool] = False  # whether a layer's (alpha, beta) depends on other layers' sums
    eps_outside: ClassVar[bool] = False  # eps a second time, outside the root
    # Read from the rule's signature and `own` when the class is made:
    sums: ClassVar[tuple[str, ...]] = ()  # what the rule takes of gg, gm, mm, dd
    rule_arguments: ClassVar[tuple[str, ...]] = ()  # and of the arguments, such as K and xi
    hyperparameters: ClassVar[dict[str, Hyperparameter]] = {}
    _rules: dict[int, BoundRule]  # of the last steps, by the index of a group

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Complete a class: its rule in plain numbers, its hyperparameters with the ranges of its bases."""
        super().__init_subclass__(**kwargs)
        inherited: dict[str, Hyperparameter] = {}
        for base in reversed(cls.__mro__[1:]):
            inherited |= vars(base).get("hyperparameters", {})
        own = inspect.getattr_static(cls, "own")
        cls.own, cls.hyperparameters = own_hyperparameters(cls.__name__, own, inherited, OPTIONS)
        if (rule := inspect.getattr_static(cls, "rule", None)) is not None:
            known = (*OF_GROUPS, *cls._options())
            cls.rule, cls.sums, cls.rule_arguments = plain_rule(cls.__name__, rule, known)

    @classmethod
    def _options(cls) -> dict[str, Any]:
        """The defaults of the keyword arguments, the member's own first."""
        return {**cls.own, **OPTIONS, **cls.own}

    @classmethod
    def _check_class(cls, reduce_groups: ReduceGroups | None) -> None:
        """Raise TypeError for a class without a rule, ValueError for one that cannot be sharded so."""
        who = cls.__name__
        if not hasattr(cls, "rule"):
            raise TypeError(f"{who} has no rule: build a member of the family, such as Aida, or give it one")
        if cls.mixes_layers and reduce_groups is not None:
            raise ValueError(
                f"{who} mixes layers: with reduce_groups a rank does not see layers of which it has no "
                "piece, so that ranks would step apart; shard with torch.distributed.fsdp.fully_shard"
            )

    def rule_of(self, group: dict[str, Any]) -> Rule:
        """A constant (alpha, beta), or the rule with the group's hyperparameters."""
        rule: Any = self.rule
        if isinstance(rule, tuple):
            return rule
        if rule is family.projection and group["K"] == 0:
            return family.BELIEF  # what no projection leaves, without the sums
        own = {name: group[name] for name in self.rule_arguments}
        return BoundRule(rule, self.sums, own, f"{type(self).__name__}.rule", self.mixes_layers)

    def _kept_rule(self, i: int) -> Rule:
        """`rule_of` group i: the object of its last step, if it is made of the same.

        torch.compile compiles a step anew for each object that it meets.
        """
        rule = self.rule_of(self.param_groups[i])
        if isinstance(rule, tuple):
            return rule
        kept = self._rules.get(i)
        if kept is None or not kept.is_made_of_the_same(rule):
            self._rules[i] = kept = rule
        return kept
