"""Steps in cache blocks are those without, bit for bit, and eager's in float64; test_triton.py runs them."""

import os
from types import SimpleNamespace

import pytest
import torch

import aida
from aida import family, sharding
from aida.backends import dispatch, triton
from aida.backends.contract import Layers, Projection, Scalars
from aida.backends.triton import tables
from aida.optimizers import step
from aida.optimizers.rule import BoundRule
from helpers.own_members import Damped, Mixing

DEVICE = os.environ.get("AIDA_TEST_DEVICE", "cpu")
F64, F32, B16 = torch.float64, torch.float32, torch.bfloat16
# A chunk has 64 elements where blocks are interpreted; of 150 elements, sums are taken over three.
SHAPES = [(7, 3), (), (0,), (150,), (5,), (2, 30)]
LARGE = 10**9
# All blocks of one layer, the layer of 150 elements larger than a block, all layers of a kind in one block.
LIMITS = [1, 1000, LARGE]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(triton, "CHUNK", 64)
    monkeypatch.setattr(triton, "ROWS", 4)
    monkeypatch.setitem(dispatch.FUSED, "cpu", (triton, lambda p: None))
    monkeypatch.delenv("AIDA_TRITON_L2_BYTES", raising=False)


@pytest.fixture
def launched(monkeypatch):
    """The kernels that were launched, by name, in order."""
    names = []
    launch = triton._Call.launch

    def recorded(call, kernel, over, *rest, **arguments):
        names.append(kernel)
        launch(call, kernel, over, *rest, **arguments)

    monkeypatch.setattr(triton._Call, "launch", recorded)
    return names


def parameters(dtype, shapes=SHAPES):
    """The last one is at an odd address, so that layers are of two kinds."""
    torch.manual_seed(0)
    values = [torch.randn(shape, dtype=F64).to(DEVICE, dtype) for shape in shapes]
    beside = torch.empty(values[-1].numel() + 1, dtype=dtype, device=DEVICE)[1:].view_as(values[-1])
    values[-1] = beside.copy_(values[-1])
    return [torch.nn.Parameter(x) for x in values]


def draw(params, t):
    generator = torch.Generator().manual_seed(t)
    for p in params:
        g = (t + 1) * torch.randn(p.shape, generator=generator, dtype=F64).to(DEVICE)
        p.grad = (g + 0.1 * p.detach().to(F64)).to(p.dtype)


def trained(cls, options, dtype=F64, spoil=lambda t, params, optimizer: None, steps=3, **arguments):
    """Parameters and states after steps, of which the third has a smaller lr."""
    options = {k: x.clone() if isinstance(x, torch.Tensor) else x for k, x in options.items()}
    params = parameters(dtype)
    optimizer = cls(params, **options, **arguments)
    for t in range(steps):
        draw(params, t)
        if t == 2:
            optimizer.param_groups[0]["lr"] *= 0.1
        spoil(t, params, optimizer)
        optimizer.step()
    states = [optimizer.state[p] for p in params]
    return [p.detach() for p in params] + [x for state in states for x in state.values()]


def check_same(ours, theirs, **tolerances):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, equal_nan=True, **(tolerances or dict(rtol=0, atol=0)))


COUPLED = dict(weight_decay=0.1)
READS_TWICE = {
    "Aida, coupled decay": (aida.Aida, dict(COUPLED, K=3)),
    "Aida, decoupled decay": (aida.Aida, dict(COUPLED, decoupled_weight_decay=True, maximize=True)),
    "Aida, capturable": (
        aida.Aida,
        dict(capturable=True, K=1, xi=1, lr=torch.tensor(0.1, dtype=F64, device=DEVICE)),
    ),
    "LAdam, pre": (aida.LAdam, dict(rectify=True)),
    "LAdaBelief, pre": (aida.LAdaBelief, COUPLED),
    "LAida, pre": (aida.LAida, COUPLED),
    "LAida of no projections, pre": (aida.LAida, dict(K=0)),
    "LAdam, post": (aida.LAdam, dict(layerwise="post", maximize=True)),
    "LAdaBelief, post": (aida.LAdaBelief, dict(layerwise="post")),
    "LAdaBelief, post, no v but 0": (aida.LAdaBelief, dict(layerwise="post", betas=(0.0, 0.99))),
    "LAida, post": (aida.LAida, dict(COUPLED, layerwise="post")),
}
SIMPLE = {
    "AdaBelief, which reads once": (aida.AdaBelief, COUPLED),
    "AdamPlus, which reads once": (aida.AdamPlus, {}),
    "Aida of no projections": (aida.Aida, dict(K=0)),
    "a rule of one's own": (Damped, dict(power=0.5)),
    "a rule that mixes layers": (Mixing, {}),
    "layers of several tensors": (aida.LAida, dict(layers=lambda name, p: "all")),
}


@pytest.mark.parametrize("member", [*READS_TWICE, *SIMPLE])
def test_steps_are_those_without_cache_blocks_and_eagers(member, monkeypatch, launched):
    cls, options = (READS_TWICE | SIMPLE)[member]
    plain = trained(cls, options)
    assert "coefficients" not in launched
    assert "mean_stepsize" not in launched
    check_same(plain, [x.to(DEVICE) for x in trained(cls, options, foreach=False)], rtol=1e-12, atol=1e-13)
    for limit in LIMITS if member in ("Aida, coupled decay", "LAida, pre", "LAida, post") else [1000]:
        launched.clear()
        monkeypatch.setenv("AIDA_TRITON_L2_BYTES", str(limit))
        check_same(trained(cls, options), plain)
        in_blocks = {"coefficients", "mean_stepsize"} & {*launched}
        assert bool(in_blocks) == (member in READS_TWICE)


@pytest.mark.parametrize("slices", ["rows", "columns"])
def test_slices_of_a_parameter_are_layers_of_blocks(slices, monkeypatch):
    rows = {"rows": [slice(0, 3), slice(3, 7)], "columns": [(..., slice(0, 1)), (..., slice(1, 3))]}
    options = dict(layers=lambda name, p: rows[slices] if p.shape == (7, 3) else None)
    plain = trained(aida.LAida, options)
    monkeypatch.setenv("AIDA_TRITON_L2_BYTES", "500")
    check_same(trained(aida.LAida, options), plain)


@pytest.mark.parametrize("member", ["Aida, coupled decay", "LAida, pre", "LAida, post"])
@pytest.mark.parametrize(
    ("dtype", "options"), [(F32, {}), (F32, dict(state_dtype=B16)), (B16, dict(stochastic_rounding=True))]
)
def test_narrow_types_and_random_rounding(dtype, options, member, monkeypatch):
    cls, own = READS_TWICE[member]
    plain = trained(cls, {**own, **options}, dtype, steps=2)
    monkeypatch.setenv("AIDA_TRITON_L2_BYTES", "500")
    check_same(trained(cls, {**own, **options}, dtype, steps=2), plain)


@pytest.mark.parametrize("member", ["Aida, coupled decay", "LAdam, pre", "LAida, pre", "LAdaBelief, post"])
@pytest.mark.parametrize("value", [0.0, 1e38, 1e200, float("inf"), float("nan")])
def test_extreme_gradients(member, value, monkeypatch):
    """Sums of one layer are 0, large, infinite or nan, and others are in its block."""
    dtype = F64 if value == 1e200 else F32

    def spoil(t, params, optimizer):
        if value == 0:
            params[3].grad.zero_()
        elif t == 1:
            params[3].grad[70] = value

    cls, options = READS_TWICE[member]
    plain = trained(cls, options, dtype, spoil, steps=2)
    monkeypatch.setenv("AIDA_TRITON_L2_BYTES", str(LARGE))
    check_same(trained(cls, options, dtype, spoil, steps=2), plain)


@pytest.mark.parametrize("member", ["Aida, coupled decay", "LAida, pre", "LAida, post"])
def test_a_scaler_is_obeyed(member, monkeypatch):
    """The second step has found an infinite gradient, and is none; the others divide by the scale."""

    def scaled(t, params, optimizer):
        for p in params:
            p.grad *= 1024
        optimizer.grad_scale = torch.tensor(1024.0, device=DEVICE)
        optimizer.found_inf = torch.tensor(float(t == 1), device=DEVICE)

    def alone(t, params, optimizer):
        if t == 1:
            for p in params:
                p.grad = None

    cls, options = READS_TWICE[member]
    plain = trained(cls, options, spoil=scaled)
    oracle = trained(cls, options, spoil=alone, foreach=False)
    check_same(plain, [x.to(DEVICE) for x in oracle], rtol=1e-12, atol=1e-13)
    monkeypatch.setenv("AIDA_TRITON_L2_BYTES", "1000")
    check_same(trained(cls, options, spoil=scaled), plain)


def made(dtypes, numels, layerwise=None):
    """Layers whose p, g, m and v are of these types, in turn."""
    torch.manual_seed(0)
    four = [
        [
            torch.rand(() if layerwise == "pre" and i == 3 else n, dtype=F64).to(
                DEVICE, dtypes[k % len(dtypes)][i]
            )
            for k, n in enumerate(numels)
        ]
        for i in range(4)
    ]
    return Layers(*four, [max(n, 1) for n in numels])


NUMELS = [5, 150, 7, 0, 64, 65, 1, 200]
MIXED = [(F32, F32, F32, F32), (F32, B16, F32, F32), (F64, F32, F32, F64)]


@pytest.mark.parametrize("layerwise", [None, "pre", "post"])
def test_layers_of_several_types_in_one_call(layerwise, monkeypatch):
    """As the contract has it, against the three functions with the rule between them."""
    rule = BoundRule(family.projection, ("gg", "gm", "mm"), dict(K=2, xi=1e-20), "rule", False)
    n = len(NUMELS)
    s = Scalars(0.9, 0.99, 0.1, 1.0, 1.0, layerwise, [1.5] * n, [1e-5] * n, [1e-3] * n, [0.01] * n)
    ours, theirs = made(MIXED, NUMELS, layerwise), made(MIXED, NUMELS, layerwise)
    given = SimpleNamespace(rule=rule, scalars=s, batch=SimpleNamespace(keys=None))
    pair, total = step._rule(given, triton.gram(theirs, s))
    if layerwise == "post":
        total = triton.stepsize_sum(theirs, pair, s)
    triton.apply(theirs, pair, total, s)
    monkeypatch.setenv("AIDA_TRITON_L2_BYTES", "700")
    triton.step(ours, Projection(2, 1e-20), s)
    for name in ("p", "m", "v"):
        check_same(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("read", ["gm", "gmp", "gmv"])
@pytest.mark.parametrize("limit", [1, 600, 3000, LARGE])
def test_blocks_are_all_layers_once_and_within_the_limit(limit, read):
    layers = made(MIXED, NUMELS)
    triton.prepare(layers)
    groups = layers.prepared.layout.groups
    blocks = tables.cache_blocks(groups, triton.CHUNK, read, limit)
    assert sorted(i for block in blocks for i in block.layers.tolist()) == [*range(len(NUMELS))]
    rows = torch.cat([block.chunks for block in blocks])
    assert torch.equal(rows, torch.cat([group.chunks for group in groups]))
    first = 0
    for block in blocks:
        members = block.layers.tolist()
        assert block.first == first
        first += len(block.chunks)
        assert {i for i, _ in block.chunks.tolist()} == {i for i in members if NUMELS[i]}
        sizes = [sum(getattr(layers, x)[i].nbytes for x in read) for i in members if NUMELS[i]]
        assert len(sizes) <= 1 or sum(sizes) <= limit
    if limit == LARGE:
        assert len(blocks) == len(groups)


def test_a_block_that_is_left_out_is_seen(monkeypatch):
    """Negative control."""
    cls, options = READS_TWICE["Aida, coupled decay"]
    plain = trained(cls, options, steps=1)
    monkeypatch.setenv("AIDA_TRITON_L2_BYTES", "1000")
    cut = tables.cache_blocks
    for drop in (0, -1):
        monkeypatch.setattr(tables, "cache_blocks", lambda *given, drop=drop: without(cut(*given), drop))
        with pytest.raises(AssertionError, match="not equal"):
            check_same(trained(cls, options, steps=1), plain)


def without(blocks, i):
    del blocks[i]
    return blocks


def test_where_ranks_share_layers_the_step_is_the_simple_one(monkeypatch, launched):
    monkeypatch.setenv("AIDA_TRITON_L2_BYTES", "1000")
    cls, options = READS_TWICE["LAida, post"]
    trained(cls, options, steps=1)
    assert "coefficients" in launched
    launched.clear()
    monkeypatch.setattr(sharding.WholeLayers, "is_sharded", lambda *given: True)
    trained(cls, options, steps=1)
    assert "gram" in launched
    assert "coefficients" not in launched


@pytest.mark.parametrize("value", ["half", "-1", "2.5", "1e6"])
def test_a_value_that_is_no_number_of_bytes_is_refused_and_nothing_is_stepped(value, monkeypatch):
    params = parameters(F64)
    optimizer = aida.Aida(params)
    draw(params, 0)
    before = [p.detach().clone() for p in params]
    monkeypatch.setenv("AIDA_TRITON_L2_BYTES", value)
    with pytest.raises(ValueError, match=f"AIDA_TRITON_L2_BYTES: '{value}' is no number of bytes; set it"):
        optimizer.step()
    check_same([p.detach() for p in params], before)
    assert not optimizer.state
    monkeypatch.setenv("AIDA_TRITON_L2_BYTES", " 0 ")
    optimizer.step()
    assert {int(state["step"]) for state in optimizer.state.values()} == {1}
