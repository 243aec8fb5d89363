"""These tests need no torch and run in an environment without it: `make test-jax`."""

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import pytest


@pytest.fixture(autouse=True)
def single_precision():
    """As JAX is by default; float64 where a test asks for `double`."""
    jax.config.update("jax_enable_x64", False)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def double(single_precision):
    jax.config.update("jax_enable_x64", True)
