"""state_dtype="int8": the form of the state, checkpoints, what it costs in memory, and what is refused."""

import copy
import pickle

import pytest
import torch
from torch.nn import Parameter

import aida
from aida.backends import blockwise
from aida.monitor.definitions import definition_for
from aida.optimizers.state import moments
from helpers.backends import BACKENDS, every_backend
from helpers.members import MEMBERS, assert_bitwise, parameters, snapshot, through_a_file, train

every_member = pytest.mark.parametrize("cls", MEMBERS)
SHAPES = ((40, 30), (5,), ())


def run(cls, steps=5, dtype=torch.float32, shapes=SHAPES, **arguments):
    optimizer = cls(parameters(shapes, dtype), lr=0.02, **{"state_dtype": "int8", **arguments})
    train(optimizer, range(steps))
    return optimizer


def in_type(optimizer, state_dtype):
    """Its state as it is saved, of groups that say to keep moments otherwise."""
    state_dict = optimizer.state_dict()
    for group in state_dict["param_groups"]:
        group |= {"state_dtype": state_dtype, "foreach": None, "fused": None}
    return through_a_file(state_dict)


def going_on(cls, earlier, state_dict, **arguments):
    """A new optimizer of the parameters as they are, with this state."""
    params = [Parameter(p.detach().clone()) for p in earlier.param_groups[0]["params"]]
    optimizer = cls(params, lr=0.5, **arguments)
    optimizer.load_state_dict(state_dict)
    return optimizer


@every_member
@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_the_form_of_the_state(cls, backend, dtype):
    backend.load()
    optimizer = run(cls, 2, dtype, **backend.arguments)
    pooled = optimizer.param_groups[0].get("layerwise") == "pre"
    for p, state in optimizer.state.items():
        assert p.isfinite().all()
        assert state["exp_avg"].dtype == torch.int8
        assert state["exp_avg"].shape == p.shape
        assert state["exp_avg_scale"].dtype == torch.float32
        assert state["exp_avg_scale"].shape == (-(-p.numel() // 256),)
        if pooled:
            assert state["exp_avg_var"].dtype == torch.promote_types(dtype, torch.float32)
            assert "exp_avg_var_scale" not in state
        else:
            assert state["exp_avg_var"].dtype == torch.uint8
            assert state["exp_avg_var_scale"].shape == state["exp_avg_scale"].shape


def test_two_bytes_and_a_bit_for_a_parameter():
    optimizer = run(aida.Aida, 1, shapes=[(1000, 1000)])
    (state,) = optimizer.state.values()
    used = sum(x.untyped_storage().nbytes() for x in state.values())
    assert used / 1e6 == pytest.approx(2 + 2 * 4 / 256, rel=1e-4)


def test_complex_parameters_keep_their_moments():
    optimizer = run(aida.Aida, 2, torch.complex64)
    assert {x.dtype for state in optimizer.state.values() for x in moments(state)} == {torch.complex64}


@every_member
@every_backend
def test_it_steps_as_from_its_moments_in_float64(cls, backend):
    """Each step of 8 bits is that of a float64 state with what the codes stand for; only storing differs."""
    backend.load()
    optimizer = run(cls, 3, torch.float64, weight_decay=0.1, **backend.arguments)
    for t in range(3, 6):
        exact = going_on(cls, optimizer, in_type(optimizer, None))
        train(exact, [t])
        train(optimizer, [t])
        for p, q in zip(optimizer.state, exact.state, strict=True):
            torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
            m, _ = moments(optimizer.state[p])
            assert ((m - exact.state[q]["exp_avg"]).abs() <= 1.001 * m.abs().max() / 127).all()


@every_member
def test_a_checkpoint_goes_on_to_the_bit(cls):
    whole, half = run(cls, 6, seed=3), run(cls, 3, seed=3)
    resumed = going_on(cls, half, through_a_file(half.state_dict()))
    assert resumed.param_groups[0]["state_dtype"] == "int8"
    train(resumed, range(3, 6))
    assert_bitwise(snapshot(resumed), snapshot(whole))


@pytest.mark.parametrize(
    "twin", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["copy", "pickle"]
)
def test_copies_go_on_to_the_bit(twin):
    whole, half = run(aida.Aida, 6), run(aida.Aida, 3)
    other = twin(half)
    train(other, range(3, 6))
    assert_bitwise(snapshot(other), snapshot(whole))


@every_member
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("other", [None, "float32", "bfloat16"])
def test_a_state_of_another_type_is_converted(cls, dtype, other):
    """To 8 bits to the nearest, from them exactly, and back to the same codes."""
    earlier = run(cls, 3, dtype, state_dtype=other)
    narrow = going_on(cls, earlier, in_type(earlier, "int8"))
    for of, was in zip(narrow.state.values(), earlier.state.values(), strict=True):
        assert of["exp_avg"].dtype == torch.int8
        m = was["exp_avg"].float()
        assert ((moments(of)[0] - m).abs() <= 0.501 * m.abs().max() / 127).all()
    train(narrow, [3])
    wide = going_on(cls, narrow, in_type(narrow, "float32"))
    for of, was in zip(wide.state.values(), narrow.state.values(), strict=True):
        assert {*of} == {"step", "exp_avg", "exp_avg_var"}
        assert_bitwise(moments(of), moments(was))
    again = going_on(cls, wide, in_type(wide, "int8"))
    assert_bitwise(
        [s["exp_avg"] for s in again.state.values()], [s["exp_avg"] for s in narrow.state.values()]
    )
    train(again, [4])


def test_the_memory_format_of_a_model_may_change():
    """Blocks are counted over elements, not over memory: a channels_last model has the codes of another."""
    ends = []
    plain, last = torch.contiguous_format, torch.channels_last
    for formats in [(plain, plain), (last, last), (last, plain)]:
        p = Parameter(parameters([(8, 5, 3, 3)])[0].detach().to(memory_format=formats[0]))
        optimizer = aida.Aida([p], lr=0.02, state_dtype="int8")
        train(optimizer, range(3))
        q = Parameter(p.detach().to(memory_format=formats[1]))
        resumed = aida.Aida([q], lr=0.02)
        resumed.load_state_dict(through_a_file(optimizer.state_dict()))
        train(resumed, range(3, 6))
        ends.append([q.detach().contiguous(), *resumed.state[q].values()])
    assert_bitwise(ends[0], ends[1])
    assert_bitwise(ends[0], ends[2])


def test_layers_with_and_without_codes_step_beside_each_other():
    """Of a group whose state_dtype was changed, and where only some layers have been stepped before."""
    params = parameters(((300,), (20, 20), (7,)))
    optimizer = aida.Aida(params, lr=0.02)
    twin = aida.Aida(parameters(((300,), (20, 20), (7,))), lr=0.02)
    for t in range(4):
        train(twin, [t])
        train(optimizer, [t])
        if t == 1:
            del optimizer.state[params[1]]
            optimizer.param_groups[0]["state_dtype"] = "int8"
    assert optimizer.state[params[0]]["exp_avg"].dtype == torch.float32
    assert optimizer.state[params[1]]["exp_avg"].dtype == torch.int8
    assert_bitwise([params[0], params[2]], [twin.param_groups[0]["params"][i] for i in (0, 2)])


@every_backend
def test_a_small_change_of_v_is_kept(backend):
    """v goes from 1 towards 4 by 0.001 of the way each step: rounded to the nearest it never leaves 1."""
    backend.load()
    p = Parameter(torch.zeros(4096))
    optimizer = aida.AdamPlus([p], lr=0.0, betas=(0.0, 0.999), state_dtype="int8", **backend.arguments)
    p.grad = torch.full((4096,), 2.0)
    p.grad[::256] = 8.0  # the scale of every block
    optimizer.step()
    state = optimizer.state[p]
    codes, scales = blockwise.encode(torch.where(p.grad == 8, 64.0, 1.0), torch.uint8)
    state["exp_avg_var"].copy_(codes)
    state["exp_avg_var_scale"].copy_(scales)
    for _ in range(200):
        optimizer.step()
    v = moments(state)[1].double()[p.grad == 2]
    expected = 4 - 3 * 0.999**200
    gap = (2 * 64 + 1) * 64 / 255**2  # at the largest code that is reached
    assert abs(v.mean() - expected) < 4 * gap / 2 * 200**0.5 / 4096**0.5
    assert v.std() > 0


def kept(optimizer):
    """Copies of all that a step writes, of what is there."""
    every = [*optimizer.state, *(x for state in optimizer.state.values() for x in state.values())]
    return [x.detach().clone() for x in every if x is not None]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "exp_avg_scale",
            lambda x: None,
            "are None, not 5 of torch.float32",
        ),
        ("exp_avg_var", lambda x: x.float(), "are not moments of one form"),
        ("exp_avg", lambda x: x.to(torch.uint8), "are not moments of one form"),
        ("exp_avg_scale", lambda x: x[:-1], "of shape .4,. on cpu, not 5 of torch.float32"),
        (
            "exp_avg_var_scale",
            lambda x: x.double(),
            "the scales of exp_avg_var of parameter 0 .* are torch.float64",
        ),
        ("exp_avg", lambda x: x.T.contiguous().T, "are not contiguous"),
        ("exp_avg_scale", lambda x: x[:1].expand(5), "not contiguous"),
    ],
)
@every_backend
def test_a_state_that_does_not_fit_is_refused_whole(backend, name, value, message):
    backend.load()
    optimizer = run(aida.Aida, 2, **backend.arguments)
    state = optimizer.state[optimizer.param_groups[0]["params"][0]]
    state[name] = value(state[name])
    before = kept(optimizer)
    with pytest.raises(RuntimeError, match=message) as error:
        train(optimizer, [2])
    assert "nothing was stepped" in str(error.value)
    assert_bitwise(kept(optimizer), before)


def test_what_is_stepped_in_pieces_is_refused_at_every_door():
    cut = lambda name, p: [slice(0, 1), slice(1, None)] if p.dim() else None  # noqa: E731
    why = r"keeps one scale for 256 elements, and parameter 0 .* cut into slices by `layers`.*'bfloat16'"
    with pytest.raises(ValueError, match=why):
        aida.Aida(parameters(), state_dtype="int8", layers=cut)
    optimizer = aida.Aida(parameters(), layers=cut)
    with pytest.raises(ValueError, match=why):
        optimizer.add_param_group({"params": parameters(), "state_dtype": "int8"})
    assert len(optimizer.param_groups) == 1
    with pytest.raises(ValueError, match=why):
        optimizer.load_state_dict(in_type(optimizer, "int8"))
    assert optimizer.param_groups[0]["state_dtype"] is None
    optimizer.param_groups[0]["state_dtype"] = "int8"
    before = kept(optimizer)
    with pytest.raises(RuntimeError, match=why + ".*nothing was stepped"):
        train(optimizer, [0])
    assert_bitwise(kept(optimizer), before)


def test_no_derivative():
    with pytest.raises(RuntimeError, match="no derivative"):
        aida.Aida(parameters(), state_dtype="int8", differentiable=True)


def test_layers_that_share_a_stepsize_may_have_codes():
    one, other = (
        run(aida.LAida, 4, torch.float64, layers=lambda name, p: "all", **BACKENDS[name].arguments)
        for name in ("eager", "foreach")
    )
    for a, b in zip(snapshot(one)[:3], snapshot(other)[:3], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@every_member
@every_backend
@pytest.mark.parametrize("worst", [1e20, 1e38])
def test_gradients_that_explode_are_survived(cls, backend, worst):
    backend.load()
    optimizer = run(cls, 3, **backend.arguments)
    params = optimizer.param_groups[0]["params"]
    train(optimizer, [3], scale=worst / 4)
    train(optimizer, range(4, 7))
    assert all(p.isfinite().all() for p in params)
    for state in optimizer.state.values():
        m, v = moments(state)
        assert m.isfinite().all()
        if "exp_avg_var_scale" in state:  # one number for a layer is float32, and may be infinite
            assert v.isfinite().all()


@every_backend
def test_layers_that_share_their_scales_step_one_after_the_other(backend):
    """As layers do that share moments: the later one reads what the earlier one has written."""
    backend.load()
    ends = []
    for order in (1, -1):
        optimizer = run(aida.Aida, 2, shapes=[(300,), (300,)], **backend.arguments)
        one, other = optimizer.param_groups[0]["params"][::order]
        optimizer.state[one]["exp_avg_scale"] = optimizer.state[other]["exp_avg_scale"]
        train(optimizer, [2])
        ends.append([batch.wave for found in optimizer._layers._found.values() for batch in found.batches])
    assert ends == [[1, 0], [1, 0]]


def test_scales_in_one_place_are_refused():
    optimizer = run(aida.Aida, 2)
    state = optimizer.state[optimizer.param_groups[0]["params"][0]]
    state["exp_avg_var_scale"] = state["exp_avg_scale"]
    before = kept(optimizer)
    with pytest.raises(RuntimeError, match="share memory: nothing was stepped"):
        train(optimizer, [2])
    assert_bitwise(kept(optimizer), before)


def test_the_monitor_sees_what_codes_stand_for():
    optimizer = run(aida.Aida, 3)
    wide = going_on(aida.Aida, optimizer, in_type(optimizer, "float32"))
    for p, q in zip(optimizer.state, wide.state, strict=True):
        ours, theirs = (
            definition_for(o)(o, o.param_groups[0], o.state[x]) for o, x in ((optimizer, p), (wide, q))
        )
        assert_bitwise([ours.m, ours.v], [theirs.m, theirs.v])
        assert ours.v.dtype == torch.float32
    monitor = aida.monitor.StepsizeMonitor(optimizer, every=1)
    train(optimizer, [3])
    assert [row["numel"] for row in monitor.rows if row["kind"] == "stepsize"] == [1200, 5, 1]


@pytest.fixture(params=[torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def default_dtype(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


@every_backend
@pytest.mark.parametrize("state_dtype", [None, "bfloat16", "int8"])
def test_a_state_does_not_depend_on_torch_s_default_type(backend, state_dtype, default_dtype):
    backend.load()

    def states():
        p = Parameter(torch.linspace(-1, 1, 12, dtype=torch.float32))
        optimizer = aida.Aida([p], lr=0.1, state_dtype=state_dtype, **backend.arguments)
        for _ in range(3):
            p.grad = p.detach().clone()
            optimizer.step()
        return {k: x for k, x in optimizer.state[p].items() if k != "step"} | {"p": p.detach()}

    found = states()
    torch.set_default_dtype(torch.float32)
    wanted = states()
    assert {k: x.dtype for k, x in found.items()} == {k: x.dtype for k, x in wanted.items()}
    assert_bitwise(list(found.values()), list(wanted.values()))
