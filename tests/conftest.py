import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread_and_seed():
    """The same sums in the same order on every machine: one thread, one seed, the default dtype."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
