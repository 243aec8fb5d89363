import os

import hypothesis
import pytest
import torch

# The same examples in every run of continuous integration, new ones at a desk; no deadline on a busy machine.
hypothesis.settings.register_profile("aida", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("aida")


@pytest.fixture(autouse=True, scope="session")
def settable_flags():
    """torch's own test database, once imported, forbids setting torch.backends' flags anywhere."""
    with torch.backends.__allow_nonbracketed_mutation():
        yield


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    """The same sums in the same order on every machine: one thread, one seed, the default dtype."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
