"""What is the CPU kernel's alone: memory order, chunks, threads, instruction sets, and what it refuses."""

import contextlib
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import aida
from aida.backends import cpu, eager, tensors
from aida.backends import dispatch as choose
from aida.backends.contract import Layers, Scalars
from helpers.backends import BACKENDS

pytestmark = pytest.mark.skipif(
    cpu.unsupported_reason(torch.float32) is not None, reason="no CPU kernel is built"
)
CHUNK = 32768


def layers_of(sizes, dtype=torch.float32, scale=1.0):
    p, g, m = ([torch.randn(n, dtype=dtype) * scale for n in sizes] for _ in range(3))
    return Layers(p, g, m, [x.square() for x in m], [max(n, 1) for n in sizes])


def scalars_of(count, layerwise=None, weight_decay=0.1):
    columns = [[c] * count for c in (1.5, 1e-5, 1e-8, 1e-2)]
    return Scalars(0.9, 0.99, weight_decay, 0.999, -1.0, layerwise, *columns)


def stepped(arguments, make, steps=3):
    """A parameter after some steps from make() = (parameter, gradient)."""
    torch.manual_seed(1)
    p, g = make()
    p = torch.nn.Parameter(p)
    optimizer = aida.Aida([p], lr=1e-2, weight_decay=0.1, **arguments)
    for _ in range(steps):
        p.grad = g
        optimizer.step()
        g = g.flip(0)
    return p.detach()


def assert_equal_sums(ours, exact, limit):
    assert ((torch.as_tensor(ours) - exact).abs() <= limit * exact.abs().clamp(min=1e-300)).all()


@pytest.mark.parametrize("variant", range(3), ids=cpu.VARIANTS)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_every_instruction_set_sums_around_chunks_and_tiles(monkeypatch, variant, dtype, limit):
    if variant > (best := cpu._kernel().aida_best_variant()):
        pytest.skip(f"this CPU has no {cpu.VARIANTS[variant]}, and {cpu.VARIANTS[best]} is tested by itself")
    monkeypatch.setattr(cpu, "_variant", lambda: variant)
    layers = layers_of([0, 1, 15, 17, 1023, 1025, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7], dtype)
    s = scalars_of(len(layers.p))
    wide = Layers(*([x.double() for x in t] for t in (layers.p, layers.g, layers.m, layers.v)), layers.numel)
    squares = [0, 2, 3]  # gm cancels
    assert_equal_sums(cpu.gram(layers, s)[:, squares], eager.gram(wide, s)[:, squares], limit)
    assert abs(cpu.gram(layers, s)[:, 1] - eager.gram(wide, s)[:, 1].numpy()).max() < limit * 3e5
    ours = cpu.stepsize_sum(layers, (0.5, 0.8), s)
    assert_equal_sums(ours, eager.stepsize_sum(wide, (0.5, 0.8), s), limit)
    cpu.apply(layers, (0.5, 0.8), None, s)
    eager.apply(wide, (0.5, 0.8), None, s)
    for a, b in zip(layers.p + layers.m + layers.v, wide.p + wide.m + wide.v, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=limit, atol=limit)


@pytest.fixture
def on_a_lesser_cpu(monkeypatch):
    """As where the widest instruction set is AVX2."""
    kernel = cpu._kernel()
    monkeypatch.setattr(cpu, "_kernel", lambda: SimpleNamespace(aida_best_variant=lambda: 1))
    for cached in (cpu._variant, cpu.library):
        cached.cache_clear()
    yield kernel
    monkeypatch.undo()
    for cached in (cpu._variant, cpu.library):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("value", "number"), [("", 1), ("0", 0), ("baseline", 0), ("1", 1), ("avx2", 1), ("avx512", 1), ("2", 1)]
)
def test_the_environment_chooses_the_instruction_set(on_a_lesser_cpu, monkeypatch, value, number):
    monkeypatch.setenv("AIDA_CPU_VARIANT", value)
    expected = (
        pytest.warns(UserWarning, match="AIDA_CPU_VARIANT: this CPU has no avx512; avx2 is used")
        if value in ("avx512", "2")
        else contextlib.nullcontext()
    )
    with expected:
        assert cpu._variant() == number


@pytest.mark.parametrize("value", ["3", "-1", "AVX2", "sse", " "])
def test_an_unknown_instruction_set_is_told_before_a_step(on_a_lesser_cpu, monkeypatch, value):
    monkeypatch.setenv("AIDA_CPU_VARIANT", value)
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    for fused in (None, True):
        with pytest.raises(ValueError, match=f"AIDA_CPU_VARIANT: '{value}' is no .* baseline, avx2, avx512"):
            aida.Aida([p], fused=fused).step()
    assert torch.equal(p, torch.ones(3))


def test_sums_of_large_gradients_do_not_overflow():
    layers = layers_of([CHUNK + 5], scale=1e18)
    assert_equal_sums(cpu.gram(layers, scalars_of(1)), eager.gram(layers, scalars_of(1)), 1e-5)


def test_results_do_not_depend_on_threads():
    sizes = [5, 2 * CHUNK + 1, 100, 0, CHUNK, 7]
    seen = []
    for threads in (1, 2, 3, 2):
        torch.set_num_threads(threads)
        torch.manual_seed(0)
        layers = layers_of(sizes)
        gram = torch.as_tensor(cpu.gram(layers, scalars_of(6)))
        cpu.apply(layers, (0.5, 0.8), None, scalars_of(6))
        seen.append([gram, *layers.p, *layers.m, *layers.v])
    for other in seen[1:]:
        assert all(torch.equal(a, b) for a, b in zip(seen[0], other, strict=True))


ODD = {
    "unaligned": lambda: (torch.randn(101)[1:], torch.randn(103)[3:]),
    "gradient of other strides": lambda: (torch.randn(6, 5), torch.randn(5, 6).t()),
    "channels_last parameter": lambda: (
        torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last),
        torch.randn(4, 3, 5, 5),
    ),
    "expanded gradient": lambda: (torch.randn(6, 5), torch.randn(6, 1).expand(6, 5)),
    "parameter with gaps": lambda: (torch.randn(6, 10)[:, ::2], torch.randn(6, 5)),
    "negated view": lambda: (torch.randn(6), torch.randn(6, dtype=torch.complex64).conj().imag),
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_memory_order(make):
    """Where a gradient's strides differ from its parameter's, torch's own fused AdamW is wrong on a CPU."""
    torch.testing.assert_close(
        stepped({"fused": True}, make), stepped({"foreach": False}, make), rtol=1e-5, atol=1e-6
    )


def broken(kind):
    p = torch.nn.Parameter(torch.randn(4, 3))
    optimizer = aida.Aida([p], fused=True)
    p.grad = torch.randn(4, 3)
    optimizer.step()
    state = optimizer.state[p]
    match kind:
        case "is on meta":
            state["exp_avg"] = state["exp_avg"].to("meta")
        case "has shape":
            p.data = torch.randn(2, 3)
        case "has no memory":
            p.grad.untyped_storage().resize_(0)
        case "is one number per layer":
            state["exp_avg_var"] = torch.zeros(())
        case "not a type of real":
            state["exp_avg_var"] = state["exp_avg_var"].to(torch.int32)
    return optimizer, p


KINDS = ["is on meta", "has shape", "has no memory", "not a type of real", "is one number per layer"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_kernel_must_not_touch_is_refused_and_nothing_written(kind):
    optimizer, p = broken(kind)
    before, count = p.detach().clone(), optimizer.state[p]["step"].clone()
    with pytest.raises(RuntimeError, match=f"{kind}.*nothing was stepped"):
        optimizer.step()
    assert torch.equal(p, before)
    assert torch.equal(optimizer.state[p]["step"], count)


def test_writes_are_seen_by_autograd():
    """As after any write in place, a backward pass through the old value raises."""
    p = torch.nn.Parameter(torch.randn(3))
    optimizer = aida.Aida([p], fused=True)
    loss = (p * p).sum()
    p.grad = torch.ones(3)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_without_the_library(monkeypatch, tmp_path):
    """fused=None steps all the same; fused=True tells what to do."""
    monkeypatch.setattr(cpu, "LIBRARY", tmp_path / "none.so")
    cpu.library.cache_clear()
    try:
        assert choose.choose(
            [torch.ones(1)], use_foreach=None, use_fused=None, differentiable=False
        ).__name__.endswith("foreach")
        with pytest.raises(RuntimeError, match=r"`fused=True` requires .*install a C\+\+ compiler"):
            stepped({"fused": True}, ODD["unaligned"])
        stepped({"fused": None}, ODD["unaligned"])
    finally:
        monkeypatch.undo()
        cpu.library.cache_clear()


@pytest.mark.skipif("AIDA_TEST_HUGE" not in os.environ, reason="needs 20 GB; set AIDA_TEST_HUGE")
def test_more_than_two_to_the_31_elements():
    n = 2**31 + 5
    p, g, m, v = (torch.zeros(n, dtype=torch.bfloat16) for _ in range(4))
    g[-1] = 3.0
    layers, s = Layers([p], [g], [m], [v], [n]), scalars_of(1, weight_decay=0.0)
    assert cpu.gram(layers, s)[0, 0] == 9.0
    cpu.apply(layers, (-1.0, 0.0), None, s)
    assert m[-1] == torch.tensor(-0.3, dtype=torch.bfloat16)
    assert not m[:-1].any()


def refused(parameter):
    """What fused=True says, and that fused=None does without the kernel."""
    parameter.grad = torch.ones_like(parameter)
    aida.Aida([parameter]).step()
    assert (parameter < 0).all()
    with pytest.raises(RuntimeError) as error:
        aida.Aida([parameter], fused=True).step()
    return str(error.value)


def test_a_kernel_that_is_none_is_done_without(tmp_path, monkeypatch):
    file = tmp_path / "_step_cpu.so"
    file.write_bytes(b"\x7fELF of another machine")
    monkeypatch.setattr(cpu, "LIBRARY", file)
    monkeypatch.setattr(cpu, "library", cpu.library.__wrapped__)
    assert "cannot be loaded" in refused(torch.nn.Parameter(torch.zeros(3)))


def test_a_kernel_of_another_version_is_done_without(monkeypatch):
    """It would read the table of layers in another form."""
    monkeypatch.setattr(cpu, "LAYER", np.dtype([*cpu.LAYER.descr, ("one_more", np.int64)]))
    monkeypatch.setattr(cpu, "library", cpu.library.__wrapped__)
    assert "of another version" in refused(torch.nn.Parameter(torch.zeros(3)))
    with pytest.raises(RuntimeError, match="of another version"):
        cpu.gram(layers_of([3]), scalars_of(1))


def test_a_type_that_the_kernel_lacks_is_named():
    assert cpu.unsupported_reason(torch.float8_e4m3fn) == "the CPU kernel has no torch.float8_e4m3fn"


def test_a_moment_of_a_type_that_the_kernel_lacks_is_refused():
    BACKENDS["cpu"].load()
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = aida.Aida([p], fused=True)
    optimizer.step()
    optimizer.state[p]["exp_avg"] = torch.zeros(3, dtype=torch.float8_e4m3fn)
    with pytest.raises(RuntimeError, match=r"exp_avg of layer 0 of its group is torch\.float8_e4m3fn, which"):
        optimizer.step()
    assert float(optimizer.state[p]["step"]) == 1


@pytest.mark.parametrize("layout", ["strided", "sparse"])
def test_without_the_library_tensors_are_described_one_by_one(layout, monkeypatch):
    monkeypatch.setattr(tensors, "tensor_api", lambda: None)
    x = torch.ones(3, 2) if layout == "strided" else torch.ones(3, 2).to_sparse()
    every = slice(0, 1)
    found = tensors.describe([x], [], [], every)
    assert found.same(tensors.describe([x], [], [], every))
    assert not found.same(tensors.describe([x.to_dense().t()], [], [], every))
