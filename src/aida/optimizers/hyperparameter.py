"""A hyperparameter of a rule's own: its default, its range, and the sentence that refuses other values."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

from .validate import flag, integer, real, refuse


@dataclass(frozen=True, slots=True)
class Hyperparameter:
    """The default and the range of a hyperparameter that a rule takes, for `Layerwise.own`.

    Its kind is the default's: a float means any finite real number, an int an integer, a bool True or False,
    a str a string (one of `choices`, where there are any). Values are checked in the constructor, in added
    groups, in loaded states and, where a scheduler has set one, at the next step; whatever form they come in
    (NumPy's, a tensor of one element), a group holds a plain Python value.

    Arguments:
        default: the value where none is given.
        ge, gt: the value must be greater than or equal to `ge`, greater than `gt`. Default: no limit.
        le, lt: the value must be less than or equal to `le`, less than `lt`. Default: no limit.
        choices: the strings that are allowed. Default: all.
        reason: why a value out of range is refused, as the end of a sentence that begins with "since".

    Raises TypeError for a default of another kind, ValueError for one that is out of its range.

    Example:
        >>> from aida import Hyperparameter
        >>> Hyperparameter(0.5, ge=0, le=4).plain("power", 5)
        Traceback (most recent call last):
        ValueError: Invalid power: 5; it must be a finite number from 0 to 4, such as 0.5
    """

    default: float | int | bool | str
    _: KW_ONLY
    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    choices: tuple[str, ...] = ()
    reason: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.default, float | int | str):
            raise TypeError(
                f"the default of a hyperparameter is {self.default!r}; it must be a number, True or False, "
                "or a string, which every checkpoint can hold"
            )
        try:
            object.__setattr__(self, "default", self.plain("default", self.default))
        except ValueError:
            raise ValueError(
                f"the default of a hyperparameter is {self.default!r}; it must be {self._wanted()}"
            ) from None

    def plain(self, name: str, value: Any) -> float | int | bool | str:
        """The value as a plain Python one; ValueError, with the name, where it is not in the range."""
        if isinstance(self.default, bool):
            return bool(flag(name, False, value))
        if isinstance(self.default, str):
            return self._string(name, value)
        why = f", such as {self.default}" + (f", since {self.reason}" if self.reason else "")
        check = integer if isinstance(self.default, int) else real
        return check(name, self._fits, self._wanted() + why, value)

    def _fits(self, x: float) -> bool:
        return (
            (self.ge is None or x >= self.ge)
            and (self.gt is None or x > self.gt)
            and (self.le is None or x <= self.le)
            and (self.lt is None or x < self.lt)
        )

    def _string(self, name: str, value: Any) -> str:
        if not isinstance(value, str) or (self.choices and value not in self.choices):
            raise refuse(name, value, self._wanted())
        return str.__str__(value)

    def _wanted(self) -> str:
        if isinstance(self.default, str):
            return " or ".join(map(repr, self.choices)) or "a string"
        kind = "an integer" if isinstance(self.default, int) else "a finite number"
        if self.ge is not None and self.le is not None:
            return f"{kind} from {self.ge} to {self.le}"
        limits = {
            "of {} or more": self.ge,
            "above {}": self.gt,
            "of {} or less": self.le,
            "below {}": self.lt,
        }
        told = [text.format(limit) for text, limit in limits.items() if limit is not None]
        return " ".join([kind, *([" and ".join(told)] if told else [])])
