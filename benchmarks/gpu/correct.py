"""The Triton backend's tests on the device, and what it compiles to with this Triton."""

from __future__ import annotations

import ast
import os
from functools import partial
from typing import Any

from gpu.device import Device
from gpu.parts import Cases
from gpu.results import ROOT, Call

TESTS = ROOT / "tests" / "backends"
CASES = sorted(path.name for path in TESTS.glob("triton_*cases.py"))
DRY = ("test_other_coefficients_are_seen", "test_layers_of_several_types_in_one_call")


def cases(device: Device, call: Call) -> Cases:
    """A case for each test function; those of test_triton.py that start a process run these again."""
    os.environ["AIDA_TEST_DEVICE"] = device.type
    found: Cases = {}
    for file in CASES:
        for name in _tests(file):
            if not call.dry or name in DRY:
                found[f"{file}::{name}"] = partial(_run, file, name)
    if not call.dry:  # the interpreter's kernels cannot be compiled
        for name in _tests("test_triton.py"):
            if "compile" in name or "aligned" in name:
                found[name] = partial(_run, "test_triton.py", name)
    return found


def _tests(file: str) -> list[str]:
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    return [
        node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


class _Counted:
    """What pytest has reported."""

    def __init__(self) -> None:
        self.passed, self.skipped, self.failed = 0, [], []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failed.append(f"{report.nodeid}\n{report.longreprtext[-3000:]}")
        elif report.skipped:
            self.skipped.append(report.nodeid)
        elif report.when == "call":
            self.passed += 1


def _run(file: str, name: str) -> dict[str, Any]:
    import pytest

    counted = _Counted()
    # Not the repository's settings, which ask for plugins that a bare machine need not have.
    code = pytest.main(
        [
            f"{TESTS / file}::{name}", "-q", "-c", str(ROOT / "benchmarks" / "gpu" / "pytest.ini"),
            "--rootdir", str(ROOT), "-p", "no:cacheprovider", "--import-mode=importlib",
        ],
        plugins=[counted],
    )  # fmt: skip
    if counted.failed:
        raise AssertionError("\n".join(counted.failed))
    assert code == 0, f"pytest ended with code {code}"
    assert counted.passed, "no test has run"
    return {"tests": counted.passed, "skipped": counted.skipped}
