"""Public names: each has a docstring, an optimizer's tells every argument, and every example runs."""

import ast
import doctest
import inspect
import re
import sys
import types
from importlib import import_module
from pathlib import Path

import pytest

import aida
import aida.monitor
from aida.backends import contract, eager, triton
from helpers.backends import BACKENDS

PUBLIC = [(module, name) for module in (aida, aida.monitor) for name in module.__all__]
CLASSES = [x for name in aida.__all__ if inspect.isclass(x := getattr(aida, name))]
OPTIMIZERS = [cls for cls in CLASSES if issubclass(cls, aida.Layerwise)]
# What has no example: it needs processes, a service, or is a table or a protocol.
WITHOUT_EXAMPLE = {"fsdp_groups", "watchable", "DEFINITIONS", "Definition", "Sink", "Memory", "CSV", "JSONL",
                   "TensorBoard", "WandB"}  # fmt: skip


def docstring(module, name):
    x = getattr(module, name)
    if inspect.isroutine(x) or inspect.isclass(x):
        return x.__dict__.get("__doc__") if inspect.isclass(x) else x.__doc__
    if type(x).__module__.startswith("aida"):
        return type(x).__doc__
    for path in Path(aida.__file__).parent.rglob("*.py"):
        body = ast.parse(path.read_text()).body
        for i, node in enumerate(body[:-1]):  # a string after an assignment
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            after = body[i + 1]
            if any(isinstance(t, ast.Name) and t.id == name for t in targets) and isinstance(after, ast.Expr):
                return ast.literal_eval(after.value)
    return None


def undocumented():
    for module, name in PUBLIC:
        if not docstring(module, name):
            yield f"{module.__name__}.{name}"
        x = getattr(module, name)
        for method, function in vars(x).items() if inspect.isclass(x) else ():
            if not method.startswith("_") and inspect.isfunction(function) and not function.__doc__:
                yield f"{module.__name__}.{name}.{method}"
    for module in (contract.Backend, triton, *(import_module(row.module) for row in BACKENDS.values())):
        for function in ("gram", "stepsize_sum", "apply"):
            if not getattr(module, function).__doc__:
                yield f"{module.__name__}.{function}"


def test_every_public_name_has_a_docstring():
    assert list(undocumented()) == []


def test_a_name_without_a_docstring_is_seen(monkeypatch):
    monkeypatch.setattr(aida.Aida, "__doc__", None)
    monkeypatch.setattr(aida.monitor.Memory.write, "__doc__", None)
    monkeypatch.setattr(eager.gram, "__doc__", None)
    assert list(undocumented()) == ["aida.Aida", "aida.monitor.Memory.write", "aida.backends.eager.gram"]


@pytest.mark.parametrize("cls", OPTIMIZERS)
def test_an_optimizer_tells_every_argument_with_its_default_and_its_source(cls):
    told = cls.__doc__.splitlines()
    for name, parameter in inspect.signature(cls).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            continue
        (at,) = [i for i, line in enumerate(told) if line.strip().startswith(f"{name}: ")]
        after = [line.strip() for line in told[at + 1 :]]
        end = next(
            (i for i, line in enumerate(after) if not line or re.match(r"(?!Default)\w+: ", line)), None
        )
        text = " ".join([told[at].strip(), *after[:end]])
        assert name == "params" or "Default: " in text, text
        if name != "params":
            written = re.search(r"Default: (\(.*?\)|[^ ]*[^ .,])", text)
            assert ast.literal_eval(written[1]) == parameter.default, text
    assert "Source: " in cls.__doc__ or cls is aida.Layerwise
    assert "p <- p - " in cls.__doc__


EXAMPLES = [(module, name) for module, name in PUBLIC if name not in WITHOUT_EXAMPLE]


@pytest.mark.parametrize(("module", "name"), EXAMPLES, ids=lambda x: getattr(x, "__name__", x))
def test_the_example_of_a_public_name_runs(module, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = inspect.cleandoc(docstring(module, name))
    module = types.ModuleType("example")  # where pickle finds its classes
    monkeypatch.setitem(sys.modules, "example", module)
    found = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    found.globs = module.__dict__
    assert found.examples, f"{name} has no example"
    output = []
    runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL, verbose=False)
    runner.run(found, out=output.append, clear_globs=False)
    assert not runner.failures, "".join(output)
    assert not list(Path().iterdir())


def test_an_example_that_fails_is_seen():
    found = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(found, out=lambda text: None)
    assert runner.failures == 1
