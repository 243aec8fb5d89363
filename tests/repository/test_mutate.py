"""`make mutate` changes one place at a time, and finds what a test does not see."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = '''
LIMIT: int = 3


def f(a: list[int], b=1.5):
    """The text 1 + 1 is not code."""
    if a and not b < LIMIT:
        raise ValueError(f"{a} is above {LIMIT + 1}")
    for x, y in zip(a, a, strict=True):
        print(x - y)
    return True
'''
CHANGES = [
    "3 → 4", "3 → 2", "1.5 → 2.5", "1.5 → 0.5", "if a and (not b < LIMIT): → if not (a and (not b < LIMIT)):",
    "a and (not b < LIMIT) → a or not b < LIMIT", "a and (not b < LIMIT) → not b < LIMIT",
    "a and (not b < LIMIT) → a", "not b < LIMIT → b < LIMIT",
    "b < LIMIT → b <= LIMIT", "b < LIMIT → b >= LIMIT",
    "raise ValueError(f'{a} is above {LIMIT + 1}') → pass", "print(x - y) → pass", "x - y → x + y",
    "return True → return None", "True → False",
]  # fmt: skip


@pytest.fixture(scope="module")
def mutate():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "tools")
        return importlib.import_module("mutate")


def test_every_kind_of_change_is_made_alone(mutate):
    whole = ast.unparse(ast.parse(SOURCE)).splitlines()
    found = []
    for mutant, tree in mutate.mutants(SOURCE):
        compile(tree, "mutant", "exec")
        changed = ast.unparse(tree).splitlines()
        assert len(changed) == len(whole)
        assert sum(a != b for a, b in zip(changed, whole, strict=True)) == 1, mutant
        found.append(mutant.change.replace("  →  ", " → "))
    assert found == CHANGES


def test_the_tests_that_it_runs_are_there(mutate):
    for module, tests in mutate.MODULES.values():
        assert (ROOT / "src" / f"{module.replace('.', '/')}.py").is_file()
        assert [path for path in tests if not (ROOT / path).exists()] == []


@pytest.mark.processes
@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize(("test", "outcome"), [("assert x == 2", "killed"), ("assert x > 0", "survived")])
def test_a_mutant_is_killed_by_what_sees_it(tmp_path, test, outcome, few):
    """A fork with x = 3 in place of x = 2 in a module of its own."""
    (tmp_path / "of_mutant.py").write_text("x = 2\n")
    (tmp_path / "test_x.py").write_text(f"from of_mutant import x\n\n\ndef test_x():\n    {test}\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\nmarkers =\n")
    program = f"""
import sys
sys.path.insert(0, {str(ROOT / "tools")!r})
import mutate
from pathlib import Path
path = Path({str(tmp_path)!r})
finder = mutate.Finder("of_mutant", path / "of_mutant.py", compile("x = 3", "of_mutant", "exec"))
print(mutate.run_tests(None, ["-c", str(path / "pytest.ini"), str(path)], 100, {few})[0])
print(mutate.run_tests(finder, ["-c", str(path / "pytest.ini"), str(path)], 100, {few})[:2])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    first, second = done.stdout.splitlines()
    assert first == "survived"
    assert outcome in second
    assert ("test_x.py::test_x" in second) == (outcome == "killed")
