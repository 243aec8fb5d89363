"""Every public name is documented, its example runs, and nothing of it needs torch."""

import ast
import doctest
import inspect
import re
import subprocess
import sys
from importlib.metadata import requires
from importlib.util import find_spec

import pytest

import aida_jax
from aida_jax import monitor

FUNCTIONS = [name for name in aida_jax.__all__ if inspect.isfunction(getattr(aida_jax, name))]
NEEDS_TORCH = {"state_from_torch", "state_to_torch"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_tells_every_argument_with_its_default(name):
    function = getattr(aida_jax, name)
    told = inspect.getdoc(function).splitlines()
    for argument, parameter in inspect.signature(function).parameters.items():
        (at,) = [i for i, line in enumerate(told) if line.strip().startswith(f"{argument}: ")]
        if parameter.default is parameter.empty:
            continue
        text = " ".join(line.strip() for line in told[at : at + 6])
        written = re.search(r"Default: ([^ ]*[^ .,])", text)
        assert ast.literal_eval(written[1]) == parameter.default, text
    assert "Returns " in function.__doc__
    assert "Raises " in function.__doc__


@pytest.mark.parametrize("name", aida_jax.__all__)
def test_an_example_runs(name):
    if name in NEEDS_TORCH and find_spec("torch") is None:
        pytest.skip("torch is not here: tests/jax_beside_torch runs it")
    tests = doctest.DocTestFinder(recurse=False).find(getattr(aida_jax, name), name)
    assert getattr(aida_jax, name).__doc__
    for test in tests:
        assert test.examples or not inspect.isfunction(getattr(aida_jax, name))
        assert doctest.DocTestRunner().run(test).failed == 0


def test_the_monitors_names_are_documented():
    assert [name for name in monitor.__all__ if not getattr(monitor, name).__doc__] == []


def test_it_needs_jax_optax_and_numpy_alone():
    needed = {re.match(r"[\w-]+", r)[0] for r in requires("aida-jax") if "extra ==" not in r}
    assert needed == {"jax", "optax", "numpy"}


def test_importing_it_imports_no_torch_and_not_the_torch_side():
    code = (
        "import sys, aida_jax, aida_jax.monitor.plots; "
        "print(sorted({'torch', 'aida', 'pandas', 'matplotlib', 'flax'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
