"""Rules of a user's own: one form of their arguments everywhere, and what each wrong one is told."""
# ruff: noqa: E501 - messages are searched for in one piece

import re
import warnings
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch.nn import Parameter

import aida
from aida.optimizers.define import show_arguments
from helpers.backends import every_backend
from helpers.edits import everything
from helpers.members import assert_near, parameters, set_gradients, snapshot, train
from helpers.own_members import Damped, Mixing, made

F32, F64 = torch.float32, torch.float64


def seen_by(arguments, params, **given):
    """What a rule is given in one step of the parameters."""
    seen = []

    class Seen(aida.Layerwise):
        @staticmethod
        def rule(dd, gg, mm, gm):
            seen.append((dd, gg, mm, gm))
            return 1.0, 1.0

    optimizer = Seen(params, **arguments, **given)
    optimizer.step()
    return seen


@every_backend
@pytest.mark.parametrize("dtype", [F64, F32, torch.bfloat16])
@pytest.mark.parametrize("layerwise", [None, "pre", "post"])
def test_a_rule_is_given_one_tensor_for_each_sum_it_names(backend, dtype, layerwise):
    backend.load(dtype)
    params = parameters([(4, 3), (5,), (), (0,)], dtype)
    set_gradients(params, 0)
    given = {} if layerwise is None else {"layerwise": layerwise}
    cls = type("Of", (aida.LAdam,), {}) if layerwise else aida.Layerwise
    seen = []

    def rule(dd, gg, mm, gm):
        seen.append((dd, gg, mm, gm))
        return 1.0, 1.0

    optimizer = type("Seen", (cls,), {"rule": rule})(params, **backend.arguments, **given)
    optimizer.step()
    ((dd, gg, mm, gm),) = seen
    wide = torch.promote_types(dtype, F32)
    for i, p in enumerate(params):
        g = p.grad.to(wide)
        m = (g * 0.1).double()
        g = g.double()
        wanted = [((m - g) ** 2).sum(), (g * g).sum(), (m * m).sum(), (g * m).sum()]
        for x, y in zip((dd, gg, mm, gm), wanted, strict=True):
            assert type(x) is torch.Tensor
            assert (x.shape, x.dtype, x.device.type, x.requires_grad) == ((4,), F64, "cpu", False)
            assert x[i].item() == pytest.approx(y.item(), rel=1e-6, abs=1e-30)


@every_backend
def test_the_layers_of_one_call_are_a_groups_of_one_type_that_have_a_gradient(backend):
    """In the order of the group; without those that have no gradient; one that shares memory steps before."""
    backend.load()
    first, second = parameters([(2,), (3,), (4,), (5,)]), parameters([(6,)])
    first[2].data = first[2].data.double()
    shared = Parameter(first[0].data)
    numel = torch.nn.ParameterList([*first, shared, *second])
    for p in numel:
        p.grad = torch.ones_like(p)
    first[1].grad = None
    seen = seen_by(backend.arguments, [{"params": [*first, shared]}, {"params": second}])
    assert [x[1].tolist() for x in seen] == [[2.0], [4.0], [5.0, 2.0], [6.0]]


@every_backend
@pytest.mark.parametrize("cls", [Damped, Mixing])
@pytest.mark.parametrize("layerwise", [None, "pre", "post"])
def test_every_backend_steps_as_eager_in_float64(backend, cls, layerwise):
    backend.load(F64)
    own = {**cls.own, **({"layerwise": layerwise} if layerwise else {})}
    cls = type(cls.__name__, (cls,), {"own": own})
    ours, oracle = (cls(parameters(dtype=F64), **a) for a in (backend.arguments, {"foreach": False}))
    for optimizer in (ours, oracle):
        train(optimizer, range(5))
    assert_near(snapshot(ours), snapshot(oracle))
    other = type("Off", (cls,), {"rule": staticmethod(lambda gg, gm, mm: (1.0 + 1e-6, 1.0))})
    off = other(parameters(dtype=F64), foreach=False)
    train(off, range(5))
    with pytest.raises(AssertionError):  # negative control
        assert_near(snapshot(off), snapshot(oracle))


def test_only_sums_that_are_taken_are_asked_for(monkeypatch):
    from aida.optimizers import step

    asked = []
    whole = step.prepare_step

    def watched(*args, **kwargs):
        prepared = whole(*args, **kwargs)
        asked.extend(s.scalars.sums for s in prepared)
        return prepared

    monkeypatch.setattr("aida.optimizers.stepping.prepare_step", watched)
    for rule, own in [
        (lambda mm, gg: (gg / (gg + mm), 1.0), {}),
        (lambda gg, gm, mm: (1.0, 1.0), {}),
        (lambda dd: (1.0, 1.0), {}),
        (lambda mm: (1.0, 1.0), {"layerwise": "pre"}),
    ]:
        train(type("Mine", (aida.Layerwise,), {"rule": rule, "own": own})(parameters()), range(1))
    assert asked == [("gg", "mm"), ("gg", "gm", "mm"), ("dd",), ("gg", "gm", "mm", "dd")]


PAIR = "return two numbers, or two tensors of shape (3,) as its sums have"
EACH = "return a number, or a tensor of shape (3,) as its sums have"
WRONG_RULES = {
    "None": (lambda gg, gm, mm: None, f"gave None, not (alpha, beta): nothing was stepped; {PAIR}"),
    "one tensor": (
        lambda gg, gm, mm: gg,
        f"gave a tensor of torch.float64 and shape (3,), not (alpha, beta): nothing was stepped; {PAIR}",
    ),
    "three": (lambda gg, gm, mm: (gg, gm, mm), f"gave 3 values, not (alpha, beta): nothing was stepped; {PAIR}"),
    "a wrong shape": (
        lambda gg, gm, mm: (gg[:2], 1.0),
        f"gave alpha as a tensor of torch.float64 and shape (2,): nothing was stepped; {EACH}",
    ),
    "another wrong shape": (
        lambda gg, gm, mm: (1.0, gg[None]),
        f"gave beta as a tensor of torch.float64 and shape (1, 3): nothing was stepped; {EACH}",
    ),
    "a nan": (
        lambda gg, gm, mm: (float("nan"), 1.0),
        "gave alpha = nan, which is not finite: nothing was stepped; correct the rule",
    ),
    "a flag": (
        lambda gg, gm, mm: (gg > gm, 1.0),
        f"gave alpha as a tensor of torch.bool and shape (3,): nothing was stepped; {EACH}",
    ),
    "None in the pair": (lambda gg, gm, mm: (1.0, None), f"gave beta as None: nothing was stepped; {EACH}"),
    "NumPy": (
        lambda gg, gm, mm: (np.sqrt(gg.numpy()), 1.0),
        "gave alpha as an array of NumPy, which devices other than the CPU do not have: nothing was stepped; " + EACH,
    ),
    "elsewhere": (
        lambda gg, gm, mm: (torch.empty(3, device="meta"), 1.0),
        "gave alpha on meta where its sums are on cpu: nothing was stepped; make new tensors with device=gg.device",
    ),
    "writes": (
        lambda gg, gm, mm: (gg.mul_(2), 1.0),
        "writes to the sums that it is given: nothing was stepped; compute new tensors, such as gg * 2 in place of "
        "gg.mul_(2)",
    ),
}  # fmt: skip


@every_backend
@pytest.mark.parametrize("why", WRONG_RULES)
@pytest.mark.parametrize("layerwise", [None, "pre", "post"])
@pytest.mark.parametrize("stepped", [0, 1])
def test_a_wrong_rule_steps_nothing(backend, why, layerwise, stepped):
    backend.load()
    function, message = WRONG_RULES[why]
    right = [True]
    cls = made(
        rule=lambda gg, gm, mm: (1.0, 1.0) if right[0] else function(gg, gm, mm),
        own={"layerwise": layerwise} if layerwise else {},
    )
    params = parameters()
    optimizer = cls([{"params": params}, {"params": parameters([(2,)])}], **backend.arguments)
    if stepped:
        train(optimizer, range(1))
    set_gradients(params, 1)
    right[0] = False
    before = everything(optimizer)
    with pytest.raises(RuntimeError, match=f"^Mine.rule {re.escape(message)}$"):
        optimizer.step()
    assert everything(optimizer) == before


@every_backend
def test_what_a_rule_raises_says_that_nothing_was_stepped(backend):
    backend.load()
    params = parameters()
    optimizer = made(rule=lambda gg, gm, mm: gg[:2] + mm)(params, **backend.arguments)
    set_gradients(params, 0)
    before = everything(optimizer)
    with pytest.raises(RuntimeError, match="must match the size") as error:
        optimizer.step()
    assert error.value.__notes__ == [
        "Mine.rule raised this, given gg, gm, mm of 3 layers: nothing was stepped"
    ]
    assert everything(optimizer) == before


@every_backend
def test_a_coefficient_that_is_not_finite_is_1(backend):
    """On every device alike: to look at them would wait for a GPU; check_member tells of them."""
    backend.load(F64)
    wrong, right = (
        made(rule=rule)(parameters(dtype=F64), **backend.arguments)
        for rule in (lambda gg, gm, mm: (gg / 0, 0 * gg / 0), lambda gg, gm, mm: (1.0, 1.0))
    )
    for optimizer in (wrong, right):
        train(optimizer, range(3))
    assert_near(snapshot(wrong), snapshot(right), limit=0.0)


def test_a_rule_that_mixes_layers_is_refused_where_it_cannot_be_exact():
    model = torch.nn.Linear(3, 2)
    message = "Mixing mixes layers, and release_gradients steps each as soon as its gradient is ready, before others "
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        aida.release_gradients(Mixing(model.parameters()), model)
    with pytest.raises(
        ValueError, match=r"^Mixing mixes layers: with reduce_groups a rank does not see layers"
    ):
        Mixing(model.parameters(), reduce_groups=lambda p: ())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(Mixing(model.parameters()), range(2))


def test_a_docstring_tells_the_arguments_of_the_base_once():
    title = "Arguments of every optimizer of the family:"
    assert aida.Aida.__doc__.count(title) == 1
    assert type("Again", (aida.Aida,), {"__doc__": aida.Aida.__doc__}).__doc__ == aida.Aida.__doc__
    own = type("Own", (), {"__doc__": "Its own.", "__signature__": None})
    for base in (type("Bare", (), {"__doc__": "A base."}), type("Without", (), {})):  # as python -OO has it
        show_arguments(own, base, {})
        assert own.__doc__ == "Its own."


@every_backend
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.float32], ids=str)
@pytest.mark.parametrize("layerwise", [None, "pre", "post"])
def test_coefficients_of_any_type_are_taken_as_numbers(backend, dtype, layerwise):
    backend.load()

    def steps(arguments, cast):
        def rule(gg, mm):
            return cast(1.0 + (gg > mm).double() / 4), cast(0.0 * gg + 2.0)

        cls = made(rule=rule, own={} if layerwise is None else {"layerwise": layerwise})
        optimizer = cls(parameters(), **arguments)
        train(optimizer, range(3))
        return snapshot(optimizer)

    assert_near(steps(backend.arguments, lambda c: c.to(dtype)),
                steps({"foreach": False}, lambda c: c.to(dtype).double()), 1e-5)  # fmt: skip


class OfBetas(aida.Layerwise):
    """What a rule may ask for beside its own hyperparameters."""

    own: ClassVar = dict(power=1.0)

    @staticmethod
    def rule(gg, mm, *, betas, eps, weight_decay, power):
        return 1.0, betas[0] * (1 + weight_decay) * (mm / (mm + gg + eps)) ** power


@every_backend
def test_a_rule_takes_the_family_s_arguments_as_the_group_has_them(backend):
    """Those of each group, and as a scheduler sets them."""
    backend.load()
    given = []

    class Given(OfBetas):
        @staticmethod
        def rule(gg, *, betas, eps, weight_decay):
            given.append((betas, eps, weight_decay))
            return 1.0, 1.0

    params = parameters([(3,), (4,)])
    groups = [{"params": params[:1]}, {"params": params[1:], "betas": (0.5, 0.9), "weight_decay": 0.25}]
    optimizer = Given(groups, eps=1e-6, **backend.arguments)
    set_gradients(params, 0)
    optimizer.step()
    optimizer.param_groups[0]["betas"] = (0.8, 0.999)
    optimizer.step()
    second = ((0.5, 0.9), 1e-6, 0.25)
    assert given == [((0.9, 0.999), 1e-6, 0.0), second, ((0.8, 0.999), 1e-6, 0.0), second]
    aida.check_member(OfBetas)


def test_a_rule_is_not_given_lr_and_is_told_why():
    with pytest.raises(TypeError, match=r"lr may be a tensor.* a hyperparameter of its own"):
        type("OfLr", (aida.Layerwise,), {"rule": lambda gg, *, lr: (1.0, lr)})
