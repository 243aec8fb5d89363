import os
import random

import hypothesis
import numpy as np
import pytest
import torch

# What the kernels' sums may depend on; `make test-matrix` (tests/combinations.py) changes it.
THREADS = int(os.environ.get("AIDA_TEST_THREADS", "1"))

# The same examples in every run, unless new ones are looked for; no deadline on a busy machine.
hypothesis.settings.register_profile("aida", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, derandomize=False, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("AIDA_TEST_PROFILE", "aida"))


@pytest.fixture(autouse=True, scope="session")
def settable_flags():
    """torch's own test database, once imported, forbids setting torch.backends' flags anywhere."""
    with torch.backends.__allow_nonbracketed_mutation():
        yield


def start_afresh() -> None:
    """Threads, random numbers and default type as every test finds them, whatever ran before it."""
    torch.set_num_threads(THREADS)
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - other libraries draw from it
    random.seed(0)


@pytest.fixture(autouse=True)
def afresh():
    start_afresh()
    yield
    start_afresh()


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef):
    """What several tests share is made alike, whichever of them is the first."""
    if fixturedef.scope != "function":
        start_afresh()
