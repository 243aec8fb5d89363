"""Deliberately wrong: needs one thread's order of sums. `make test-matrix` must see it fail with more."""

import torch


def sums():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1 << 20, generator=generator).sum().item() for _ in range(20)]


def test_sums_are_those_of_one_thread():
    found = sums()
    torch.set_num_threads(1)
    assert found == sums()
