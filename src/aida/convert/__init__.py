"""States of other optimizers made into ours: `aida.convert_state`."""

from .state import convert_state

__all__ = ["convert_state"]
