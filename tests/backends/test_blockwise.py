"""Moments of 8 bits: codes stand for what they are specified to, without bias, the same in every backend."""

import copy

import pytest
import torch

from aida.backends import blockwise, cpu, eager, foreach
from helpers.blockwise import (
    BLOCK,
    F32,
    F64,
    M,
    V,
    check_step,
    drawn,
    equal,
    exact_step,
    gap,
    layers_of,
    scalars_of,
    wider_gap,
)  # fmt: skip

SIZES = [0, 1, 255, 256, 257, 1025, 32768 + 300]
needs_kernel = pytest.mark.skipif(cpu.unsupported_reason(F32) is not None, reason="no CPU kernel is built")


@pytest.mark.parametrize("dtype", [M, V])
@pytest.mark.parametrize("n", SIZES)
def test_every_element_is_within_a_level_of_its_code(dtype, n):
    torch.manual_seed(n)
    x = drawn(n, dtype)
    for bits, share in ((torch.randint(0, 1 << 16, (n,)), 1.0), (blockwise.NEAREST, 0.5)):
        codes, scales = blockwise.encode(x, dtype, bits)
        assert codes.dtype == dtype
        assert scales.shape == (-(-n // BLOCK),)
        off = (blockwise.decode(codes, scales, F64) - x.double()).abs()
        share = torch.where(codes == 1, 1.0, share) if dtype == V else share
        assert (off <= share * wider_gap(codes, scales) * (1 + 1e-3)).all()


@pytest.mark.parametrize("dtype", [M, V])
def test_the_mean_over_all_bits_is_the_number(dtype):
    """Over the 65536 words that there are, not over a sample: so no luck is in it."""
    torch.manual_seed(0)
    x = drawn(BLOCK, dtype, spread=1.0)
    mean = torch.zeros(BLOCK, dtype=F64)
    for first in range(0, 1 << 16, 1 << 12):
        bits = torch.arange(first, first + (1 << 12)).unsqueeze(1).expand(-1, BLOCK)
        codes, scales = blockwise.encode(x.expand(1 << 12, -1), dtype, bits)
        mean += blockwise.decode(codes, scales, F64).sum(0) / (1 << 16)
    of_level = (mean - x.double()) / gap(*blockwise.encode(x, dtype))
    lowest = x < x.max() / 255**2 if dtype == V else torch.zeros(BLOCK, dtype=torch.bool)
    assert of_level[~lowest].abs().max() < 1e-4
    assert (~lowest).sum() > 0
    assert (of_level[lowest] >= 0).all()


@pytest.mark.parametrize("dtype", [M, V])
def test_what_is_decoded_is_encoded_to_the_same_codes(dtype):
    codes = torch.arange(-127, 128, dtype=torch.int32) if dtype == M else torch.arange(256, dtype=torch.int32)
    for scale in (1e-30, 3e-7, 1.0, 0.1, 2.9e38):
        known, scales = codes.to(dtype), torch.tensor([scale])
        again, same = blockwise.encode(blockwise.decode(known, scales), dtype)
        assert torch.equal(again, known)
        torch.testing.assert_close(same, scales, rtol=1e-6, atol=0)


def test_what_is_no_ordinary_number():
    inf, nan = float("inf"), float("nan")
    codes, scales = blockwise.encode(torch.tensor([nan, 2.0, -1.0, 0.0]), M)
    assert codes.tolist() == [0, 127, -64, 0]
    assert scales.tolist() == [2.0]
    codes, scales = blockwise.encode(torch.tensor([inf, -inf, 1.0]), M)
    assert codes.tolist() == [127, -127, 0]
    assert scales.item() == pytest.approx(3e38)
    codes, scales = blockwise.encode(torch.tensor([inf, nan, 0.0, 1.0]), V)
    assert codes.tolist() == [255, 0, 0, 1]  # of what has moved, nothing is stored as what has not
    assert blockwise.decode(codes, scales).isfinite().all()
    codes, scales = blockwise.encode(torch.zeros(3), V)
    assert codes.tolist() == [0, 0, 0]
    assert scales.item() == 0
    tiny = torch.tensor([1e-41, 0.0])
    assert blockwise.decode(*blockwise.encode(tiny, V)).isfinite().all()


BACKENDS = [eager, foreach, pytest.param(cpu, marks=needs_kernel)]
each_backend = pytest.mark.parametrize("backend", BACKENDS, ids=["eager", "foreach", "C++"])


@each_backend
@pytest.mark.parametrize("layerwise", [None, "pre", "post"])
@pytest.mark.parametrize(("dtype", "limit"), [(F32, 3e-6), (F64, 1e-12)])
def test_a_step_reads_what_the_codes_stand_for(backend, layerwise, dtype, limit):
    check_step(backend, SIZES, dtype, layerwise, limit)


@each_backend
@pytest.mark.parametrize("keys", [{}, {"keys": None}], ids=["at random", "to the nearest"])
@pytest.mark.parametrize("dtype", [F32, F64])
def test_codes_and_scales_are_the_references_bit_for_bit(backend, keys, dtype):
    ours = exact_step(backend, SIZES, dtype, **keys)
    assert equal(ours, exact_step(eager, SIZES, dtype, **keys))
    assert not equal(ours, exact_step(eager, SIZES, dtype, keys=[7] * len(SIZES)))  # other bits, other codes
    codes = [x for x in ours if x.dtype in (M, V) and x.numel()]
    assert len({int(x) for x in torch.cat([c.int() for c in codes]).unique()}) > 300


@needs_kernel
@pytest.mark.parametrize("variant", range(3), ids=cpu.VARIANTS)
def test_every_instruction_set_has_the_same_codes(monkeypatch, variant):
    if variant > (best := cpu._kernel().aida_best_variant()):
        pytest.skip(f"this CPU has no {cpu.VARIANTS[variant]}, and {cpu.VARIANTS[best]} is tested by itself")
    monkeypatch.setattr(cpu, "_variant", lambda: variant)
    assert equal(exact_step(cpu, SIZES), exact_step(eager, SIZES))


@needs_kernel
def test_parameters_and_gradients_may_lie_in_another_order():
    shape = (6, 5, 7, 3)
    numel = 630
    results = []
    for order in (torch.contiguous_format, torch.channels_last):
        x = layers_of([numel])
        for tensors in (x.p, x.g, x.m, x.v):
            tensors[0] = tensors[0].view(shape)
        x.p[0], x.g[0] = (t[0].to(memory_format=order) for t in (x.p, x.g))
        results.append([])
        for backend in (eager, foreach, cpu):
            y = copy.deepcopy(x)
            backend.apply(y, (0.5, 0.8), None, scalars_of(1))
            assert y.p[0].stride() == x.p[0].stride()
            results[-1].append([y.p[0], y.m[0], y.v[0]])
    for plain, other in zip(*results, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))
