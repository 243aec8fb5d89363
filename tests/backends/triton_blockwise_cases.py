"""Moments of 8 bits in the Triton kernels, against eager; test_triton.py runs them."""

import os

import pytest

from aida.backends import dispatch, eager, triton
from helpers.blockwise import F32, F64, check_step, equal, exact_step
from helpers.members import MEMBERS, parameters, snapshot, train

DEVICE = os.environ.get("AIDA_TEST_DEVICE", "cpu")
SIZES = [0, 1, 255, 256, 257, 1025, 3000]  # of which the last two have whole and broken chunks and blocks


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(triton, "CHUNK", 1024)
    monkeypatch.setattr(triton, "ROWS", 64)


@pytest.mark.parametrize("layerwise", [None, "pre", "post"])
@pytest.mark.parametrize(("dtype", "limit"), [(F32, 3e-6), (F64, 1e-12)])
def test_a_step_reads_what_the_codes_stand_for(layerwise, dtype, limit):
    check_step(triton, SIZES, dtype, layerwise, limit, DEVICE)


@pytest.mark.parametrize("keys", [{}, {"keys": None}], ids=["at random", "to the nearest"])
def test_codes_and_scales_are_eagers(keys):
    """Bit for bit where each operation is rounded; a device may join two, and then a few codes differ."""
    ours, theirs = (exact_step(backend, SIZES, device=DEVICE, **keys) for backend in (triton, eager))
    if DEVICE == "cpu":
        assert equal(ours, theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a != b).sum() <= 1 + 1e-3 * a.numel()
        assert ((a.double() - b.double()).abs() <= 1).all()
    assert not equal(ours, exact_step(triton, SIZES, device=DEVICE, keys=[7] * len(SIZES)))


@pytest.mark.parametrize("cls", MEMBERS)
@pytest.mark.parametrize("block_bytes", ["0", "1"])
def test_whole_steps_are_those_of_eager(monkeypatch, cls, block_bytes):
    monkeypatch.setitem(dispatch.FUSED, "cpu", (triton, lambda p: None))
    monkeypatch.setenv("AIDA_TRITON_L2_BYTES", block_bytes)
    ends = []
    for foreach in (None, False):
        params = [p.detach().to(DEVICE).requires_grad_() for p in parameters([(30, 20), (5,), ()], F64)]
        optimizer = cls(params, lr=0.02, state_dtype="int8", weight_decay=0.1, foreach=foreach)
        train(optimizer, range(3))
        ends.append([x.cpu().double() for x in snapshot(optimizer)])
    for ours, theirs in zip(*ends, strict=True):
        off = (ours - theirs).abs() / theirs.abs().max().clamp(min=1e-9)
        assert (off > 1e-12).sum() <= 1 + 1e-3 * off.numel()  # what is left to a last bit of a float64
