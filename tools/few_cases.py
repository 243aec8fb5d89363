"""A plugin of pytest that keeps some cases in the middle of each test's parameters.

AIDA_TEST_CASES: how many of each test. Default: 1.
"""

from __future__ import annotations

import os
from typing import Any


def pytest_collection_modifyitems(items: list[Any]) -> None:
    kept = int(os.environ.get("AIDA_TEST_CASES", "1"))
    of_test: dict[Any, list[Any]] = {}
    for item in items:
        name = getattr(item, "originalname", None) or item.name
        of_test.setdefault((item.path, item.cls, name), []).append(item)
    items[:] = [
        case for cases in of_test.values() for case in cases[max(0, (len(cases) + 1 - kept) // 2) :][:kept]
    ]
