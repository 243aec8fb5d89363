"""bfloat16 moments and parameters: types, repeatability, and what rounding to the nearest would lose."""

import copy
import io

import pytest
import torch
from torch.nn import Parameter

import aida
from aida.backends import rounding
from helpers.members import MEMBERS, assert_bitwise, assert_near, parameters, snapshot, train

LOW = torch.bfloat16
every_member = pytest.mark.parametrize("cls", MEMBERS)
every_backend = pytest.mark.parametrize("foreach", [False, True], ids=["eager", "foreach"])


def run(cls, steps=5, dtype=torch.float64, **arguments):
    optimizer = cls(parameters(dtype=dtype), lr=0.02, **{"state_dtype": LOW, **arguments})
    train(optimizer, range(steps))
    return optimizer


def moments(optimizer):
    return [s[name] for s in optimizer.state.values() for name in ("exp_avg", "exp_avg_var")]


def low(tensors):
    return [x for x in tensors if x.dtype == LOW]


@every_member
@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("state_dtype", [LOW, torch.float32, None])
def test_types(cls, foreach, dtype, state_dtype):
    optimizer = run(cls, 2, dtype, state_dtype=state_dtype, foreach=foreach)
    full = torch.promote_types(dtype, torch.float32)
    pooled = optimizer.param_groups[0].get("layerwise") == "pre"
    for p, state in optimizer.state.items():
        assert p.dtype == dtype
        assert p.isfinite().all()
        assert state["exp_avg"].dtype == (state_dtype or full)
        assert state["exp_avg_var"].dtype == (full if pooled else state_dtype or full)


def test_complex_parameters_keep_their_moments():
    optimizer = run(aida.Aida, 2, torch.complex64)
    assert {x.dtype for x in moments(optimizer)} == {torch.complex64}


@every_member
def test_backends_draw_the_same_bits(cls):
    """In float64 the backends differ far below a float32, so each rounding must fall out the same."""
    eager, foreach = (run(cls, foreach=foreach, stochastic_rounding=True) for foreach in (False, True))
    assert_bitwise(low(moments(eager)), low(moments(foreach)))
    assert_near(snapshot(eager), snapshot(foreach), 1e-13)


@every_member
def test_parameters_too(cls):
    """bfloat16 parameters are stochastically rounded too: not to the nearest, and the same for a seed."""
    at_random, again, other, nearest = (
        run(cls, dtype=LOW, foreach=True, **arguments)
        for arguments in (
            dict(stochastic_rounding=True),
            dict(stochastic_rounding=True),
            dict(stochastic_rounding=True, seed=1),
            dict(),
        )
    )
    assert_bitwise(snapshot(at_random), snapshot(again))
    for different in (other, nearest):
        assert not torch.equal(snapshot(at_random)[0], snapshot(different)[0])


@every_backend
def test_the_counter_may_stay_on_the_device(foreach):
    by_host, by_device = (run(aida.Aida, foreach=foreach, capturable=c) for c in (False, True))
    assert_bitwise(moments(by_host), moments(by_device))


def test_groups_and_frozen_layers_do_not_change_a_layers_bits():
    """A layer is keyed by its place among all parameters, whoever else has a gradient."""
    whole, groups, frozen = (parameters(dtype=torch.float64) for _ in range(3))
    one = aida.Aida(whole, state_dtype=LOW)
    split = aida.Aida([{"params": groups[:1]}, {"params": groups[1:]}], state_dtype=LOW)
    part = aida.Aida(frozen, state_dtype=LOW)
    for t in range(3):
        train(one, [t])
        train(split, [t])
        for p, q in zip(frozen[1:], whole[1:], strict=True):
            p.grad = q.grad.clone()
        part.step()
    assert_bitwise(moments(one), moments(split))
    assert_bitwise(moments(one)[2:], moments(part))


@every_member
def test_a_checkpoint_keeps_types_and_bits(cls):
    whole = run(cls, 6, torch.float32, stochastic_rounding=True, seed=3)
    half = run(cls, 3, torch.float32, stochastic_rounding=True, seed=3)
    file = io.BytesIO()
    torch.save(half.state_dict(), file)
    file.seek(0)
    resumed = cls([Parameter(p.detach().clone()) for p in half.param_groups[0]["params"]], lr=0.5)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert [x.dtype for x in moments(resumed)] == [x.dtype for x in moments(half)]
    train(resumed, range(3, 6))
    assert_bitwise(snapshot(resumed), snapshot(whole))


def test_a_checkpoint_from_before_these_options_loads():
    optimizer = run(aida.Aida, 2, state_dtype=None)
    old = copy.deepcopy(optimizer.state_dict())
    for name in ("state_dtype", "stochastic_rounding", "seed"):
        del old["param_groups"][0][name]
    loaded = run(aida.Aida, 1, state_dtype=None)
    loaded.load_state_dict(old)
    train(loaded, [2])
    assert {x.dtype for x in moments(loaded)} == {torch.float64}


@every_backend
def test_a_small_change_of_v_is_kept(foreach):
    """v goes from 1 towards 4 by 0.001 of the way each step: rounded to nearest it never leaves 1."""
    ends = []
    for to_nearest in (False, True):
        p = Parameter(torch.zeros(4096))
        optimizer = aida.AdamPlus([p], lr=0.0, betas=(0.0, 0.999), state_dtype=LOW, foreach=foreach)
        with pytest.MonkeyPatch.context() as patch:
            if to_nearest:
                patch.setattr(rounding, "round_bfloat16", lambda x, bits: x.float().bfloat16())
            p.grad = torch.full((4096,), 1.0)
            optimizer.step()
            optimizer.state[p]["exp_avg_var"].fill_(1.0)
            p.grad.fill_(2.0)
            for _ in range(200):
                optimizer.step()
        ends.append(optimizer.state[p]["exp_avg_var"].double())
    at_random, to_nearest = ends
    expected = 4 - 3 * 0.999**200
    # A rounding's variance is at most a quarter of a gap of 2^-7, and 200 of them add up.
    assert abs(at_random.mean() - expected) < 4 * 2**-8 * 200**0.5 / 4096**0.5
    assert at_random.std() > 0
    assert (to_nearest == 1).all()


@every_backend
def test_a_small_step_of_a_parameter_is_kept(foreach):
    ends = {}
    for at_random in (True, False):
        p = Parameter(torch.ones(4096, dtype=LOW))
        optimizer = aida.AdamPlus([p], lr=1e-3, eps=1e-16, stochastic_rounding=at_random, foreach=foreach)
        for _ in range(100):
            p.grad = torch.ones(4096, dtype=LOW)
            optimizer.step()
        ends[at_random] = p.detach().double()
    assert abs(ends[True].mean() - 0.9) < 4 * 2**-9 * 100**0.5 / 4096**0.5
    assert (ends[False] == 1).all()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(state_dtype=torch.float16), ValueError, "float16 cannot hold v"),
        (
            dict(state_dtype="bf16"),
            ValueError,
            "state_dtype: 'bf16'; it must be None, 'float32', 'bfloat16' or 'int8'",
        ),
        (dict(seed=-1), ValueError, "seed: -1"),
        (dict(seed=1.5), ValueError, "seed: 1.5"),
        (dict(seed=2**32), ValueError, "from 0 to"),
        (dict(state_dtype=LOW, differentiable=True), RuntimeError, "no derivative"),
        (dict(stochastic_rounding=True, differentiable=True), RuntimeError, "no derivative"),
    ],
)
def test_what_cannot_be_had_is_said(arguments, error, message):
    with pytest.raises(error, match=message):
        aida.Aida(parameters(), **arguments)
