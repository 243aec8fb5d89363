"""Do the tests see a wrong line? One place of a module is changed, and its tests run.

    python tools/mutate.py family rounding                    every mutant of two modules
    python tools/mutate.py step layer_batch --sample 40       of each a sample, drawn by --seed
    python tools/mutate.py family --list                      the mutants, without running anything
    python tools/mutate.py family --only 3,17                 some of them, by number

A mutant is killed when a test fails or the tests take over ten times as long as without it. What survives one
case of each test meets all of them, and is printed where it survives those too. Nothing is written into the
source tree: a process that has imported torch forks for each mutant, and the fork imports the changed module
from memory. docs/results/mutation.md has the results.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import random
import shlex
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import few_cases

ROOT = Path(__file__).parents[1]
# Module, and the tests that know it best: the quickest first, since a mutant's run ends at the first failure.
MODULES = {
    "family": ("aida.family", ["tests/family", "tests/published", "tests/optimizers/test_members.py"]),
    "rounding": (
        "aida.backends.rounding",
        ["tests/backends/test_rounding.py", "tests/optimizers/test_low_precision.py"],
    ),
    "blockwise": (
        "aida.backends.blockwise",
        ["tests/backends/test_blockwise.py", "tests/optimizers/test_eight_bits.py"],
    ),
    "step": (
        "aida.optimizers.step",
        [
            "tests/optimizers/test_grad_scaler.py", "tests/optimizers/test_counters.py",
            "tests/optimizers/test_low_precision.py", "tests/family/test_rules.py", "tests/published",
            "tests/optimizers/test_members.py", "tests/optimizers/test_torch_tensors.py",
            "tests/optimizers/test_torch_contract.py", "tests/optimizers/test_layers.py",
        ],
    ),
    **{
        name: (
            f"aida.optimizers.{name}",
            [
                "tests/optimizers/test_atomic.py", "tests/optimizers/test_values.py",
                "tests/optimizers/test_layer_batch.py", "tests/optimizers/test_low_precision.py",
                "tests/optimizers/test_members.py", "tests/optimizers/test_torch_tensors.py",
                "tests/optimizers/test_release.py", "tests/optimizers/test_layers.py",
            ],
        )
        for name in ("layer_batch", "layer_cache")
    },
    **{
        name: (
            f"aida.optimizers.{name}",
            [
                "tests/optimizers/test_layers_kept.py", "tests/monitor/test_layers.py",
                "tests/optimizers/test_layers.py",
            ],
        )
        for name in ("layers", "shared_layers")
    },
}  # fmt: skip
# A fork sees the mutant, a new program does not.
MARKS = "not slow and not network and not gpu and not distributed and not packaging and not processes"

BINARY: dict[type, type] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr,
}  # fmt: skip
COMPARISONS: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt), ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
# zip(strict=True) asserts what is true; an annotation is not executed; a message is for a reader.
SKIPPED_KEYWORDS = {"strict"}
SKIPPED_FIELDS = {"annotation", "returns"}
SKIPPED_NODES = (ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)


@dataclass
class Mutant:
    number: int
    line: int
    change: str
    outcome: str = ""
    by: str = ""  # the test that failed
    seconds: float = 0.0


def replacements(node: ast.AST) -> Iterator[ast.AST]:
    """What is put in this node's place, one at a time."""

    def changed(**fields: Any) -> ast.AST:
        made = copy.deepcopy(node)
        for name, value in fields.items():
            setattr(made, name, value)
        return made

    match node:
        case ast.BinOp() | ast.AugAssign() if type(node.op) in BINARY:
            yield changed(op=BINARY[type(node.op)]())
            if isinstance(node, ast.AugAssign):
                yield ast.Pass()
        case ast.Compare(ops=[operator]):
            for other in COMPARISONS[type(operator)]:
                yield changed(ops=[other()])
        case ast.BoolOp():
            yield changed(op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
            for i in range(len(node.values)):
                rest = [*node.values[:i], *node.values[i + 1 :]]
                yield changed(values=rest) if len(rest) > 1 else rest[0]
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.Constant(value=bool()):
            yield changed(value=not node.value)
        case ast.Constant(value=int() | float()):
            yield changed(value=node.value + 1)
            yield changed(value=node.value - 1)
        case ast.If() | ast.IfExp() | ast.While():
            yield changed(test=ast.UnaryOp(ast.Not(), node.test))
        case ast.Return(value=ast.expr()):
            yield changed(value=ast.Constant(None))
        case ast.Raise() | ast.Continue() | ast.Break():
            yield ast.Pass()
        case ast.Expr(value=ast.Call()):
            yield ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield ast.Pass()


def sites(node: ast.AST) -> Iterator[tuple[ast.AST, str, int | None]]:
    """(parent, field, index) of every node that may be changed."""
    for name, value in ast.iter_fields(node):
        if name in SKIPPED_FIELDS:
            continue
        for i, child in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(child, ast.AST) or isinstance(child, SKIPPED_NODES):
                continue
            if isinstance(child, ast.keyword) and child.arg in SKIPPED_KEYWORDS:
                continue
            yield node, name, i if isinstance(value, list) else None
            yield from sites(child)


def mutants(source: str) -> Iterator[tuple[Mutant, ast.Module]]:
    """Every mutant of the source with its tree. The tree is changed back before the next one is made."""
    tree = ast.parse(source)
    number = 0
    for parent, name, i in list(sites(tree)):
        holder: Any = getattr(parent, name) if i is not None else parent.__dict__
        place: Any = i if i is not None else name
        node = holder[place]
        for new in replacements(node):
            before = ast.unparse(node).partition("\n")[0]
            after = ast.unparse(ast.fix_missing_locations(ast.copy_location(new, node))).partition("\n")[0]
            holder[place] = new
            yield Mutant(number, node.lineno, f"{before}  →  {after}"), tree
            holder[place] = node
            number += 1


class Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, code: CodeType) -> None:
        super().__init__(name, path)
        self.code = code

    def get_code(self, fullname: str) -> CodeType:
        return self.code


class Finder(importlib.abc.MetaPathFinder):
    """Finds one module: the changed one."""

    def __init__(self, name: str, path: Path, code: CodeType) -> None:
        self.name, self.path, self.code = name, path, code

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != self.name:
            return None
        loader = Loader(fullname, str(self.path), self.code)
        return importlib.util.spec_from_file_location(fullname, self.path, loader=loader)


class FirstFailure:
    """A plugin of pytest that writes the first failing test's name to a pipe."""

    def __init__(self, pipe: int) -> None:
        self.pipe = pipe

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            os.write(self.pipe, report.nodeid.encode()[:4000])

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed:
            os.write(self.pipe, f"collection of {report.nodeid}".encode()[:4000])


def run_tests(finder: Finder | None, tests: list[str], limit: float, few: bool) -> tuple[str, str, float]:
    """(outcome, first failing test, seconds) of the tests in a fork; few: of one case of each test."""
    read, write = os.pipe()
    start = time.monotonic()
    child = os.fork()
    if not child:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        if finder:
            sys.meta_path.insert(0, finder)
        import pytest

        arguments = [
            "-x",
            "-q",
            "--tb=no",
            "-p",
            "no:cacheprovider",
            "-o",
            f"timeout={limit:.0f}",
            "-m",
            MARKS,
        ]
        code = pytest.main([*arguments, *tests], plugins=[FirstFailure(write), *[few_cases] * few])
        os._exit(0 if code == 0 else 1)
    os.close(write)
    while not (ended := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() - start > limit:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(read)
            return "timeout", "", time.monotonic() - start
        time.sleep(0.05)
    with os.fdopen(read, "rb") as pipe:
        by = pipe.read().decode(errors="replace")
    return ("killed" if ended[1] else "survived"), by, time.monotonic() - start


def run(name: str, sample: int | None, seed: int, only: list[int] | None, listing: bool) -> None:
    module, tests = MODULES[name]
    path = ROOT / "src" / f"{module.replace('.', '/')}.py"
    source = path.read_text(encoding="utf-8")
    count = sum(1 for _ in mutants(source))
    chosen = set(only if only is not None else range(count))
    if sample is not None and sample < len(chosen):
        chosen = set(random.Random(f"{seed} {name}").sample(sorted(chosen), sample))
    limit = 600.0
    if not listing:
        outcome, by, seconds = run_tests(None, tests, limit, few=False)
        if outcome != "survived":
            sys.exit(f"{name}: the tests fail without a mutant ({by or outcome}): correct them first")
        limit = 10 * seconds + 60
        print(f"{name}: {len(chosen)} of {count} mutants; the tests take {seconds:.0f} s", flush=True)
    done = []
    for mutant, tree in mutants(source):
        if mutant.number not in chosen:
            continue
        if listing:
            print(f"{mutant.number:4d}  {path.name}:{mutant.line}  {mutant.change}")
            continue
        finder = Finder(module, path, compile(tree, str(path), "exec"))
        mutant.outcome, mutant.by, mutant.seconds = run_tests(finder, tests, limit, few=True)
        if mutant.outcome == "survived":
            mutant.outcome, mutant.by, mutant.seconds = run_tests(finder, tests, limit, few=False)
        done.append(mutant)
        if mutant.outcome == "survived":
            print(f"survived {mutant.number:4d}  {path.name}:{mutant.line}  {mutant.change}", flush=True)
    if listing:
        return
    counts = {kind: sum(m.outcome == kind for m in done) for kind in ("killed", "timeout", "survived")}
    print(f"{name}: {counts}", flush=True)
    out = ROOT / "build" / "mutation"
    out.mkdir(parents=True, exist_ok=True)
    found = {"command": shlex.join(["python", *sys.argv]), "seed": seed, "mutants": [asdict(m) for m in done]}
    (out / f"{name}.json").write_text(
        json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("modules", nargs="+", choices=[*MODULES])
    parser.add_argument("--sample", type=int, help="how many mutants of each module; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="numbers of mutants, separated by commas")
    parser.add_argument("--list", action="store_true", help="print the mutants and run nothing")
    asked = parser.parse_args()
    only = [int(number) for number in asked.only.split(",")] if asked.only else None
    os.chdir(ROOT)
    if not asked.list:
        # What every run imports, without what is changed.
        import hypothesis
        import pytest  # noqa: F401
        import torch
        import torch._dynamo  # noqa: F401

        # The first failing example is enough, and the next mutant's must not begin with it.
        phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
        hypothesis.settings.register_profile(
            "mutate", deadline=None, derandomize=True, database=None, phases=phases
        )
        os.environ["AIDA_TEST_PROFILE"] = "mutate"
    for name in asked.modules:
        run(name, asked.sample, asked.seed, only, asked.list)


if __name__ == "__main__":
    main()
