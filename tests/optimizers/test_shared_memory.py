"""Layers that share memory, in one group or in several: each is stepped by itself, in order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import Parameter

import aida
from aida.optimizers import waves as of_layers
from aida.optimizers.waves import are_apart, extent
from helpers.backends import BACKENDS, every_backend
from helpers.members import MEMBERS, assert_bitwise, assert_near, parameters, set_gradients, snapshot

every_member = pytest.mark.parametrize("cls", MEMBERS)


def in_turn(cls, backend, options, layers):
    """What one optimizer a layer gives, stepped one after the other, as torch's loop does."""
    optimizers = [cls([p], **{**options, **backend.arguments}) for p, _ in layers]
    for _ in range(3):
        for optimizer, (p, g) in zip(optimizers, layers, strict=True):
            p.grad = g
            optimizer.step()
    return [x for optimizer in optimizers for x in snapshot(optimizer)]


def views(how, size):
    buffer = torch.linspace(-1, 1, 3 * size).clone()
    starts = {
        "one memory": (0, 0, 0),
        "overlapping": (0, size // 2, size),
        "neighbours": (0, size, 2 * size),
    }[how]
    gradients = torch.randn(3, size, generator=torch.Generator().manual_seed(size))
    return [(Parameter(buffer[a : a + size]), g) for a, g in zip(starts, gradients, strict=True)]


@every_backend
@every_member
@pytest.mark.parametrize("how", ["one memory", "overlapping", "neighbours"])
def test_parameters_that_share_memory_step_one_after_the_other(cls, backend, how):
    """As torch's loop, to the bit and with any number of threads."""
    backend.load()
    size = 40_000 if backend.arguments.get("fused") else 30
    seen = []
    for threads in (1, 2, 4, 2):
        torch.set_num_threads(threads)
        layers = views(how, size)
        optimizer = cls([p for p, _ in layers], weight_decay=0.1, **backend.arguments)
        for p, g in layers:
            p.grad = g
        for _ in range(3):
            optimizer.step()
        seen.append(snapshot(optimizer))
    for other in seen[1:]:
        assert_bitwise(other, seen[0])
    torch.set_num_threads(1)
    assert_bitwise(seen[0], in_turn(cls, backend, {"weight_decay": 0.1}, views(how, size)))


OVERLAPS = {
    "columns": lambda x: [x[:, :4], x[:, 2:6], x[:, 5:]],
    "a transpose": lambda x: [x, x.t(), x[1:3]],
    "rows": lambda x: [x[:3], x[2:5], x[4:]],
    "columns side by side": lambda x: [x[:, :4], x[:, 4:6], x[:, 6:]],
}


@every_backend
@every_member
@pytest.mark.parametrize("how", OVERLAPS)
@pytest.mark.parametrize("groups", [(3,), (1, 2), (2, 1), (1, 1, 1)], ids=str)
def test_views_of_any_strides_and_groups_step_one_after_the_other(cls, backend, how, groups):
    """As eager optimizers of their own do in turn, where sums and coupled decay read what is written."""
    backend.load(torch.float64)

    def made():
        generator = torch.Generator().manual_seed(1)
        memory = torch.randn(8, 8, generator=generator, dtype=torch.float64)
        params = [Parameter(x) for x in OVERLAPS[how](memory)]
        return [(p, torch.randn(p.shape, generator=generator, dtype=p.dtype)) for p in params]

    layers = made()
    params = iter(p for p, _ in layers)
    optimizer = cls([{"params": [next(params) for _ in range(n)]} for n in groups], weight_decay=0.5,
                    **backend.arguments)  # fmt: skip
    for _ in range(3):
        for p, g in layers:
            p.grad = g
        optimizer.step()
    eager = BACKENDS["eager"]
    assert_near(snapshot(optimizer), in_turn(cls, eager, {"weight_decay": 0.5}, made()))


@every_backend
@every_member
@pytest.mark.parametrize("how", ["contiguous", "columns", "channels last", "other strides later"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.filterwarnings("ignore:.*duplicate parameters")
def test_one_parameter_twice_is_stepped_twice(cls, backend, how, groups):
    backend.load(torch.float64)

    def made():
        x = torch.randn(4, 6, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        if how == "channels last":
            x = x.contiguous(memory_format=torch.channels_last)
        return Parameter(x[:, :3] if how == "columns" else x)

    p, q = made(), made()
    twice = cls([p, p] if groups == 1 else [p], weight_decay=0.5, **backend.arguments)
    if groups == 2:
        twice.param_groups.append({**twice.param_groups[0], "params": [p]})
    once = cls([q], weight_decay=0.5, foreach=False)
    for t in range(4):
        if t == 2 and how == "other strides later":
            p.data = p.data.transpose(0, 1).contiguous().transpose(0, 1)
        set_gradients([p], t)
        q.grad = p.grad.clone()
        twice.step()
        once.step()
        once.step()
    assert_near(snapshot(twice)[:4], snapshot(once))


@every_backend
@every_member
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.filterwarnings("ignore:.*duplicate parameters")
def test_moments_of_8_bits_that_a_kernel_copies_are_stepped_twice(cls, backend, groups):
    """Codes are contiguous where the parameter is channels last: a kernel works on a copy of it."""
    backend.load()

    def moved(arguments):
        (p,) = parameters([(4, 3, 2, 2)])
        p.data = p.data.contiguous(memory_format=torch.channels_last)
        optimizer = cls([p, p] if groups == 1 else [p], state_dtype="int8", **arguments)
        if groups == 2:
            optimizer.param_groups.append({**optimizer.param_groups[0], "params": [p]})
        set_gradients([p], 0)
        optimizer.step()
        assert optimizer.state[p]["step"] == 2
        return p.detach().double()

    assert_near([moved(backend.arguments)], [moved({"foreach": False})], 1e-6)


def test_memory_of_groups_is_apart_where_no_byte_is_shared():
    x = torch.zeros(12)
    given = [x[:3], x[3:6], x[2:4], x[::11], x[6:6]]
    p, q = Parameter(torch.zeros(2)), Parameter(torch.zeros(2))
    extents = [extent([], [part]) for part in given]
    assert are_apart([extents[0], extents[1], extents[4], extents[4]])
    assert not are_apart([extents[0], extents[1], extents[2]])
    assert not are_apart([extents[3], extents[1]])
    assert are_apart([extent([p], [p, p]), extent([q], [q, q[1:]])])
    assert not are_apart([extent([p], []), extent([p], [])])
    assert are_apart([])


@every_backend
def test_waves_are_found_again_for_other_groups_beside(backend):
    """Layers of two groups share memory only where they step together, and no longer where one has moved."""
    backend.load()
    p, q = parameters([(4, 3), (4, 3)])
    optimizer = aida.Aida([{"params": [p]}, {"params": [q]}], weight_decay=0.5, **backend.arguments)

    def waves(*layers):
        with torch.no_grad():
            optimizer.step_layers(layers)
        found = optimizer._layers._found.values()
        return [[batch.wave for batch in one.batches] for one in found][-len(layers) :]

    first, second = (0, 0, p), (1, 1, q)
    set_gradients([p, q], 0)
    assert waves(first, second) == [[0], [0]]
    own, q.data = q.data, p.data
    assert waves(first) == waves(second) == [[0]]
    assert waves(first, second) == waves(first, second) == [[1], [0]]
    assert waves(first) == waves(second) == [[0]]
    q.data = own
    assert waves(first, second) == [[0], [0]]


@every_backend
@every_member
def test_layers_that_share_their_moments_step_one_after_the_other(cls, backend):
    backend.load()
    size = 40_000 if backend.arguments.get("fused") else 30
    seen = []
    for threads in (1, 2, 4):
        torch.set_num_threads(threads)
        params = parameters([(size,), (size,)])
        optimizer = cls(params, **backend.arguments)
        set_gradients(params, 0)
        optimizer.step()
        optimizer.state[params[1]]["exp_avg"] = optimizer.state[params[0]]["exp_avg"]
        optimizer.step()
        optimizer.step()
        seen.append(snapshot(optimizer))
    for other in seen[1:]:
        assert_bitwise(other, seen[0])
    assert not torch.equal(seen[0][0], seen[0][4])


@given(st.lists(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12)), max_size=3), max_size=9))
def test_which_layers_overlap_is_what_comparing_all_pairs_finds(spans):
    layers = [[("cpu", start, start + size) for start, size in of_layer] for of_layer in spans]

    def meet(one, other):
        return any(a[1] < b[2] and b[1] < a[2] for a in one for b in other)

    wanted = [
        i for i, one in enumerate(layers) if any(meet(one, other) for j, other in enumerate(layers) if j != i)
    ]
    assert of_layers.that_overlap(layers) == wanted


def test_one_shared_pair_does_not_make_every_layer_meet_every_other(monkeypatch):
    """Gathering stays linear in the layers that share no memory."""
    compared = []
    monkeypatch.setattr(
        of_layers, "_overlap", lambda a, b, of=of_layers._overlap: compared.append(1) or of(a, b)
    )
    params = [Parameter(torch.ones(4)) for _ in range(60)]
    params[50].data = params[7].data
    optimizer = aida.Aida(params)
    set_gradients(params, 0)
    optimizer.step()
    assert 0 < len(compared) < 60
