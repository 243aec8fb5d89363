"""What the Triton backend must do, against eager in float64; test_triton.py runs them."""

import os
from dataclasses import replace

import pytest
import torch

import aida
from aida.backends import dispatch as choose
from aida.backends import eager, triton
from aida.backends.contract import Layers, Scalars
from aida.backends.triton import tables as triton_tables
from helpers import extremes
from helpers.own_members import Damped, Mixing

DEVICE = os.environ.get("AIDA_TEST_DEVICE", "cpu")
F64, F32, F16, B16 = torch.float64, torch.float32, torch.float16, torch.bfloat16
# A block has 32 elements and a chunk 64 where blocks are interpreted: 150 are 2 chunks, a block and a rest.
SHAPES = [(), (1,), (5,), (7, 3), (0,), (150,)]
NUMELS = [1, 1, 5, 42, 1, 150]  # the fourth is half of a whole layer
FIELDS = ("p", "m", "v")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(triton, "CHUNK", 64)
    monkeypatch.setattr(triton, "ROWS", 4)


def layers(p_type=F64, g_type=None, m_type=None, layerwise=None, scale=1.0, shapes=SHAPES):
    torch.manual_seed(0)

    def new(shape, dtype):
        return torch.randn(shape, dtype=F64).to(dtype).to(DEVICE)

    m_type = m_type or torch.promote_types(p_type, F32)
    v_type = torch.promote_types(m_type, F32) if layerwise == "pre" else m_type
    p = [new(s, p_type) for s in shapes]
    g = [scale * new(s, g_type or p_type) for s in shapes]
    m = [scale * new(s, m_type) for s in shapes]
    v = [new(() if layerwise == "pre" else s, v_type) ** 2 for s in shapes]
    return Layers(p, g, m, v, NUMELS if shapes is SHAPES else [max(x.numel(), 1) for x in p])


def scalars(layerwise=None, n=6, **changes):
    columns = [[1.5 + 0.1 * i for i in range(n)], [1e-5] * n, [1e-3] * n, [0.01 * (i + 1) for i in range(n)]]
    return replace(Scalars(0.9, 0.99, 0.1, 0.999, -1.0, layerwise, *columns), **changes)


def per_layer(n=6):
    return tuple(torch.linspace(a, b, n, dtype=F64, device=DEVICE) for a, b in ((0.5, 1), (1, 0.1)))


def wide(x):
    return Layers(*([t.to(F64, copy=True) for t in getattr(x, k)] for k in ("p", "g", "m", "v")), x.numel)


def worst(ours, theirs):
    """The largest difference in any layer, of its largest element."""
    of_layers = [0.0]
    for a, b in zip(ours, theirs, strict=True):
        if b.numel():
            assert a.isfinite().all()
            of_layers.append(((a.to(F64) - b.to(F64)).abs().max() / b.to(F64).abs().max()).item())
    return max(of_layers)


def both(x, coefficients, s):
    """Step x by the kernels and return the largest difference of sums, and of p, m and v, from eager."""
    oracle = wide(x)
    n = len(x.p)
    total = torch.linspace(0.5, 5, n, dtype=F64, device=DEVICE) if s.layerwise else None
    if s.layerwise == "post":
        total = torch.stack([total, torch.arange(n, dtype=F64, device=DEVICE)], dim=1)  # none in the first
    sums = [worst(triton.gram(x, s), eager.gram(oracle, s))]
    if s.layerwise != "pre":
        sums.append(
            worst(triton.stepsize_sum(x, coefficients, s), eager.stepsize_sum(oracle, coefficients, s))
        )
    triton.apply(x, coefficients, total, s)
    eager.apply(oracle, coefficients, total, s)
    return max(sums), [worst(getattr(x, k), getattr(oracle, k)) for k in FIELDS]


# Of the type that is written; the interpreter truncates to bfloat16, a device rounds.
LIMIT = {F64: 1e-14, F32: 5e-7, B16: 2**-7 if DEVICE == "cpu" else 2**-8}


@pytest.mark.parametrize("layerwise", [None, "pre", "post"])
@pytest.mark.parametrize(("p_type", "g_type"), [(F64, F64), (F32, B16), (B16, F32)])
def test_every_function_is_eagers(p_type, g_type, layerwise):
    coefficients = per_layer() if layerwise is None else (1.0, 1.0)
    x = layers(p_type, g_type, layerwise=layerwise)
    sums, (p, m, v) = both(x, coefficients, scalars(layerwise))
    assert sums <= (1e-14 if p_type == F64 else 1e-6)
    assert p <= LIMIT[p_type]
    assert m <= LIMIT[x.m[0].dtype]
    assert v <= LIMIT[x.v[0].dtype]


def test_other_coefficients_are_seen():
    """Negative control: a residual that is off by 1e-6 shows."""
    x, s = layers(), scalars()
    oracle = wide(x)
    triton.apply(x, (1.0, 1.0), None, s)
    eager.apply(oracle, (1.0, 1.0 + 1e-6), None, s)
    assert worst(x.v, oracle.v) > 5e-8
    assert worst(x.m, oracle.m) <= 1e-14


def test_layers_of_several_types_in_one_call():
    x = layers(F32, shapes=[(5,), (150,), (7,)])
    x.g[0], x.g[2] = x.g[0].to(F16), x.g[2].to(F16)
    x.m[1] = x.m[1].to(F64)
    sums, of_fields = both(x, per_layer(3), scalars(n=3))
    assert sums <= 1e-6
    assert max(of_fields) <= 5e-7


@pytest.mark.parametrize("scale", [3e17, 1e20, 1e37])
def test_squares_of_large_gradients_do_not_overflow(scale):
    """Nor do those of one large gradient among small ones, in a whole block and in the rest of a chunk."""
    for place in (slice(None), 0, 149):
        x = layers(F32)
        x.g[-1][place] *= scale
        ours, theirs = triton.gram(x, scalars()), eager.gram(wide(x), scalars())
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
        assert theirs.max() > 1e34


@pytest.mark.parametrize("kind", ["unaligned", "gradient", "parameter", "moment"])
def test_memory_in_another_order(kind):
    """A storage offset of 1; gradient, parameter, then moments with strides unlike the others'."""
    shape = (2, 3, 2, 2)
    x = layers(shapes=[shape, (40,)])
    if kind == "unaligned":
        for tensors in (x.p, x.g, x.m, x.v):
            tensors[1] = tensors[1][1:]
    if kind == "gradient":
        x.g[0] = x.g[0].to(memory_format=torch.channels_last)
    if kind == "parameter":
        x.p[0] = torch.stack([x.p[0], x.p[0]], dim=-1)[..., 0]
    if kind == "moment":
        x.m[0] = x.m[0].to(memory_format=torch.channels_last)
        x.p[0] = x.p[0].to(memory_format=torch.channels_last)
    sums, of_fields = both(x, per_layer(2), scalars("post", n=2))
    assert sums <= 1e-14
    assert max(of_fields) <= 1e-14


def test_random_rounding_is_eagers_bit_for_bit():
    """With b1 = b2 = 0.5 and no decay the moments are exact in float32, so only the bits decide."""
    n = len(SHAPES)
    keys = [0x9E3779B9 * (i + 1) & 0xFFFFFFFF for i in range(n)]
    s = scalars(b1=0.5, b2=0.5, weight_decay=0.0, decay_factor=1.0, keys=keys, round_p=True)
    ours, theirs = layers(B16, m_type=B16), layers(B16, m_type=B16)
    theirs.m[5][7] = ours.m[5][7] = torch.inf
    theirs.g[5][9] = ours.g[5][9] = torch.nan
    nearest = layers(B16, m_type=B16)
    triton.apply(ours, (1.0, 1.0), None, s)
    eager.apply(theirs, (1.0, 1.0), None, s)
    eager.apply(nearest, (1.0, 1.0), None, replace(s, keys=None))
    for k in ("m", "v"):
        for a, b in zip(getattr(ours, k), getattr(theirs, k), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
    assert not torch.equal(nearest.m[5], ours.m[5])
    p, q = ours.p[5].float(), theirs.p[5].float()
    finite = q.isfinite()
    assert torch.equal(finite, p.isfinite())
    assert (p[finite] != q[finite]).float().mean() <= 0.02  # the last bit of the float32 sum may differ


def test_random_parameters_alone():
    s = scalars(keys=torch.arange(6, device=DEVICE), round_p=True, weight_decay=0.0)
    ours, theirs = layers(B16), layers(B16)
    triton.apply(ours, (-1.0, 0.0), None, s)
    eager.apply(theirs, (-1.0, 0.0), None, s)
    assert ours.m[5].dtype == F32
    assert (ours.p[5] != theirs.p[5]).float().mean() <= 0.02


def test_grad_scale_divides_and_the_gradient_stays():
    x, plain = layers(), layers()
    before = [g.clone() for g in x.g]
    plain.g = [g / 1024 for g in plain.g]
    s = scalars(
        "pre", grad_scale=torch.tensor(1024.0, device=DEVICE), found_inf=torch.tensor(0.0, device=DEVICE)
    )
    x.v = [v.sum() for v in x.v]
    plain.v = [v.sum() for v in plain.v]
    total = torch.ones(len(x.p), dtype=F64, device=DEVICE)
    assert worst(triton.gram(x, s), eager.gram(plain, s)) <= 1e-14
    triton.apply(x, (1.0, 1.0), total, s)
    eager.apply(plain, (1.0, 1.0), total, s)
    assert max(worst(getattr(x, k), getattr(plain, k)) for k in FIELDS) <= 1e-14
    assert all(torch.equal(a, b) for a, b in zip(x.g, before, strict=True))


@pytest.mark.parametrize("layerwise", [None, "pre"])
def test_found_inf_writes_nothing(layerwise):
    x, before = layers(layerwise=layerwise), layers(layerwise=layerwise)
    s = scalars(layerwise, found_inf=torch.tensor(1.0, device=DEVICE))
    triton.apply(x, (1.0, 1.0), torch.ones(len(x.p), dtype=F64, device=DEVICE), s)
    for k in FIELDS:
        assert all(torch.equal(a, b) for a, b in zip(getattr(x, k), getattr(before, k), strict=True))


def test_two_runs_are_bitwise_equal():
    a, b = (triton.gram(layers(F32), scalars()) for _ in range(2))
    assert torch.equal(a, b)


def test_addresses_are_uploaded_when_they_have_changed(monkeypatch):
    uploads = []
    upload = triton_tables.upload
    monkeypatch.setattr(triton_tables, "upload", lambda x, *rest: uploads.append(x) or upload(x, *rest))
    x = layers(shapes=[(5,)])
    first = triton.gram(x, scalars(n=1))
    uploads.clear()
    triton.prepare(x)
    assert uploads == []
    x.g[0] = x.g[0] * 2
    triton.prepare(x)
    assert uploads == [[*(t.data_ptr() for t in (x.p[0], x.g[0], x.m[0], x.v[0])), 0, 0]]
    assert not torch.equal(triton.gram(x, scalars(n=1)), first)
    assert x.prepared.layout.aligned == [True]
    x.g[0] = torch.cat([x.g[0], -x.g[0]])[5:]  # 40 bytes behind what is aligned to 16
    x.addresses = torch.tensor([[of[0].data_ptr()] for of in (x.p, x.g, x.m, x.v)]).numpy()
    triton.prepare(x)
    assert x.prepared.layout.aligned == [False]
    assert max(both(x, (1.0, 1.0), scalars(n=1))[1]) <= 1e-14


def test_tables_of_a_capture_serve_no_later_step(monkeypatch):
    """They are filled when the graph is replayed, which may be later, or never."""
    x = layers(shapes=[(5,)])
    monkeypatch.setattr(triton_tables, "capturing", lambda device: True)
    triton.prepare(x)
    in_capture = x.prepared
    monkeypatch.setattr(triton_tables, "capturing", lambda device: False)
    triton.prepare(x)
    assert x.prepared.layout is not in_capture.layout
    assert x.prepared.pointers is not in_capture.pointers
    eagerly = x.prepared
    monkeypatch.setattr(triton_tables, "capturing", lambda device: True)
    triton.prepare(x)
    assert x.prepared.layout is eagerly.layout


@pytest.fixture
def everywhere(monkeypatch):
    monkeypatch.setitem(choose.FUSED, "cpu", (triton, lambda p: None))


def trained(cls, foreach=None, **options):
    """Parameters and moments after three steps, of which the last has a smaller lr."""
    options = {k: x.clone() if isinstance(x, torch.Tensor) else x for k, x in options.items()}
    params = [torch.nn.Parameter(x) for x in layers(shapes=[(7, 3), ()]).p]
    optimizer = cls(params, foreach=foreach, **options)
    for t in range(3):
        for p, g in zip(params, layers(shapes=[(7, 3), ()], scale=t + 1).g, strict=True):
            p.grad = g + 0.1 * p.detach()
        if t == 2:
            optimizer.param_groups[0]["lr"] *= 0.1
        optimizer.step()
    return [p.detach() for p in params] + [x for s in optimizer.state.values() for x in s.values()]


ROWS = lambda name, p: [slice(0, 3), slice(3, 7)] if p.dim() else None  # noqa: E731
COLUMNS = lambda name, p: [(..., slice(0, 1)), (..., slice(1, 3))] if p.dim() else None  # noqa: E731
TOGETHER = lambda name, p: "all"  # noqa: E731


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (aida.Aida, dict(weight_decay=0.1, decoupled_weight_decay=True)),
        (aida.Aida, dict(capturable=True, lr=torch.tensor(0.1, dtype=F64, device=DEVICE))),
        (aida.LAdaBelief, dict(weight_decay=0.1, rectify=True)),
        (aida.LAdam, dict(layerwise="post", maximize=True)),
        (Damped, dict(power=0.5)),
        (Mixing, dict(capturable=True)),
        (aida.Aida, dict(layers=ROWS, capturable=True)),
        (aida.LAida, dict(layers=COLUMNS)),
        (aida.LAdam, dict(layers=TOGETHER, layerwise="post")),
        (aida.LAida, dict(layers=TOGETHER)),
        (Mixing, dict(layers=TOGETHER)),
    ],
)
def test_whole_steps_are_those_of_eager(cls, options):
    for ours, theirs in zip(trained(cls, **options), trained(cls, foreach=False, **options), strict=True):
        assert worst([ours], [theirs.to(ours.device)]) <= 1e-13


@pytest.mark.usefixtures("everywhere")
def test_a_rule_of_ones_own_is_given_tensors_of_float64_on_the_device():
    seen = []

    class Seen(aida.Layerwise):
        @staticmethod
        def rule(gg, gm, mm):
            seen.append((gg, gm, mm))
            return 1.0, torch.ones_like(gg)

    trained(Seen)
    assert len(seen) == 3
    for x in (x for sums in seen for x in sums):
        assert (type(x), x.dtype, x.shape, x.device.type) == (torch.Tensor, F64, (2,), DEVICE)


@pytest.mark.usefixtures("everywhere")
def test_gradscaler_leaves_unscaling_and_skipping_to_the_step():
    """Two steps, of which the first overflows: as one unscaled step, and neither gradient is written."""
    p, q = (torch.nn.Parameter(torch.ones(3, device=DEVICE)) for _ in range(2))
    gradient = torch.tensor([1.0, -2.0, 3.0], device=DEVICE)
    optimizer, plain = aida.Aida([p], lr=0.1, fused=True), aida.Aida([q], lr=0.1, foreach=False)
    scaler = torch.amp.GradScaler(DEVICE, init_scale=1024.0, growth_interval=100)
    for direction in (gradient * torch.inf, gradient):
        optimizer.zero_grad()
        loss = (p * direction).sum()
        scaler.scale(loss).backward()
        before = p.grad.clone()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(p.grad, before)
    assert optimizer._step_supports_amp_scaling
    assert scaler.get_scale() == 512.0
    q.grad = gradient
    plain.step()
    assert optimizer.state[p]["step"].item() == 1
    assert worst([p.detach()], [q.detach()]) <= 5e-7
    assert not plain._step_supports_amp_scaling
    assert not aida.Aida([p])._step_supports_amp_scaling  # as in torch: trainers refuse to clip where it does


EXTREMES = [(aida.AdaBelief, dict(rectify=True)), (aida.LAdam, dict(rectify=True))]
EXTREMES += [(aida.LAdaBelief, dict(layerwise="post")), (aida.LAida, dict(weight_decay=0.1))]
EXTREMES += [(aida.Aida, dict(K=K)) for K in (2, 3, 8)]


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize(("cls", "own"), EXTREMES)
def test_a_gradient_that_explodes_is_survived(monkeypatch, cls, own):
    monkeypatch.setattr(extremes, "SHAPES", ((70,), ()))  # the interpreter is slow
    extremes.check_exploded({}, cls, own, magnitudes=(1e38,), device=DEVICE)


@pytest.mark.usefixtures("everywhere")
def test_so_it_is_by_narrow_parameters():
    extremes.check_exploded(
        {}, aida.Aida, {}, magnitudes=(1e38,), device=DEVICE, dtype=B16, alike=False
    )  # see LIMIT


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize(("cls", "own"), [(aida.LAdam, {}), (aida.Aida, {})])
def test_a_gradient_that_is_not_finite_is_as_in_torchs_adam(cls, own, value):
    extremes.check_not_finite({}, cls, own, value, device=DEVICE)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("layerwise", ["pre", "post"])
def test_elements_that_never_moved_are_left_out_of_the_mean(layerwise):
    """And where none has moved, the mean is their stepsize."""
    ends = []
    for arguments in ({}, {"foreach": False}):
        p = [torch.nn.Parameter(torch.zeros(150, device=DEVICE)) for _ in range(2)]
        optimizer = aida.LAdaBelief(p, betas=(0.0, 0.9), layerwise=layerwise, **arguments)
        for t in range(3):
            for i, q in enumerate(p):
                q.grad = torch.zeros_like(q)
                q.grad[5 : 70 * i + 5] = t + 1.0
            optimizer.step()
        ends += [q.detach() for q in p]
    assert worst(ends[1:2], ends[3:]) <= 1e-6
    assert torch.equal(ends[0], ends[2])


def test_a_backend_that_does_not_unscale_says_so():
    """What lies on the host is unscaled there, whatever the backend."""
    p = torch.nn.Parameter(torch.ones(3, device=DEVICE))
    p.grad = torch.ones_like(p)
    optimizer = aida.Aida([p], foreach=True)
    optimizer.found_inf = torch.ones((), device=DEVICE)
    if DEVICE == "cpu":
        optimizer.step()
        assert torch.equal(p, torch.ones_like(p))
        return
    with pytest.raises(RuntimeError, match="grad_scale and found_inf are used by the fused step alone"):
        optimizer.step()


def test_where_it_can_not_run_it_says_why():
    assert "cuda and xpu" in str(triton.unsupported_reason(F32, torch.device("cpu")))
    assert "float8" in str(triton.unsupported_reason(torch.float8_e5m2, torch.device("cuda")))
    if DEVICE != "cpu":
        assert triton.unsupported_reason(F32, torch.device(DEVICE)) is None
