"""What `make test-matrix` asks for is what runs."""

import os

import pytest
import torch

from aida.backends import cpu


def test_threads():
    assert torch.get_num_threads() == int(os.environ["AIDA_TEST_THREADS"])


def test_torchs_instruction_set():
    assert torch.backends.cpu.get_cpu_capability().lower() == os.environ["ATEN_CPU_CAPABILITY"]


@pytest.mark.skipif(cpu.unsupported_reason(torch.float32) is not None, reason="no CPU kernel is built")
def test_the_kernels_instruction_set():
    assert cpu.VARIANTS[cpu._variant()] == os.environ["AIDA_CPU_VARIANT"]
