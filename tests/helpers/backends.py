"""The one table of backends: another one joins every test of them by its line here."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

import pytest
import torch

TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Row:
    """A backend's module and the optimizer's arguments that ask for it."""

    module: str
    arguments: dict[str, Any]

    def load(self, dtype: torch.dtype = torch.float32) -> Any:
        """The module; skips the test where this installation lacks the backend or it lacks the type."""
        if importlib.util.find_spec(self.module) is None:
            pytest.skip(f"there is no {self.module}")
        module = importlib.import_module(self.module)
        if why := getattr(module, "unsupported_reason", lambda *_: None)(dtype, torch.device("cpu")):
            pytest.skip(why)
        return module


BACKENDS = {
    "eager": Row("aida.backends.eager", {"foreach": False}),
    "foreach": Row("aida.backends.foreach", {"foreach": True}),
    "cpu": Row("aida.backends.cpu", {"fused": True}),
}
every_backend = pytest.mark.parametrize("backend", list(BACKENDS.values()), ids=list(BACKENDS))
every_type = pytest.mark.parametrize("dtype", TYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
