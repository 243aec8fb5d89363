"""check_member: every member passes, and a class that breaks a contract is told which, and for what input."""
# ruff: noqa: E501 - messages are searched for in one piece

import re
from dataclasses import replace
from typing import ClassVar

import pytest
import torch

import aida
from aida import Hyperparameter, check_member
from aida.check.contracts import check_groups
from aida.check.subject import Subject
from aida.monitor import DEFINITIONS
from aida.monitor.definitions import definition_for
from helpers.members import OWN, SHARED, name
from helpers.own_members import Damped, Mixing

FEW = [(cls, own) for cls, all_own in OWN.items() for own in all_own]
FEW += [(aida.LAida, shared) for shared in SHARED if "capturable" not in shared]  # which the check sets


@pytest.mark.parametrize("case", FEW, ids=name)
def test_every_member_passes(case):
    cls, arguments = case
    assert check_member(cls, **arguments) is True


class Constant(aida.Layerwise):
    rule = (0.5, 0.25)


class OfTwo(aida.Layerwise):
    own: ClassVar = dict(power=Hyperparameter(1.0, ge=0, le=4), momentum_too=True, layerwise="post")

    @staticmethod
    def rule(gg, mm, *, power, momentum_too):
        beta = (mm / (mm + gg + 1e-30)) ** power
        return 1.0, beta if momentum_too else 1.0


@pytest.mark.parametrize("cls", [Damped, Mixing, Constant, OfTwo])
def test_members_of_ones_own_pass(cls):
    before = torch.get_rng_state()
    assert check_member(cls) is True
    assert torch.equal(torch.get_rng_state(), before)


class DividesByZero(aida.Layerwise):
    rule = staticmethod(lambda gg, gm, mm: (gm / gg.clamp(min=1e-30), mm / mm))


class InfiniteWhereTiny(aida.Layerwise):
    rule = staticmethod(lambda gg, mm: (1.0, torch.where((gg > 0) & (gg < 1e-50), torch.inf, 1.0)))


class Random(aida.Layerwise):
    rule = staticmethod(lambda gg: (torch.rand_like(gg), 1.0))


class MixesUnsaid(aida.Layerwise):
    rule = staticmethod(lambda gg: (gg / (gg.sum() + 1e-30), 1.0))


class IllConditioned(aida.Layerwise):
    rule = staticmethod(lambda gg: ((1e12 * gg).sin(), 1.0))


class InfinityLessInfinity(aida.Layerwise):
    rule = (1e30, 1e30)


class WritesGradients(aida.Layerwise):
    rule = (1.0, 1.0)

    def step(self, closure=None):
        loss = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                p.grad.mul_(2)
        return loss


class Shifts(aida.Layerwise):
    """A little in float32 alone, which no comparison of backends sees."""

    rule = (1.0, 1.0)
    steps = 0

    def shift(self):
        return 3e-8

    def step(self, closure=None):
        loss = super().step(closure)
        self.steps += 1
        for group in self.param_groups:
            for p in group["params"]:
                if p.dtype == torch.float32:
                    p.data.add_(self.shift())
        return loss


class OtherAtEachRun(Shifts):
    def shift(self):
        return 3e-8 * torch.rand(()).item()


class CountsElsewhere(Shifts):
    def shift(self):
        return 3e-8 * self.steps


class LosesItsCount(CountsElsewhere):
    def load_state_dict(self, state_dict):
        self.steps = int(max((s["step"] for s in state_dict["state"].values()), default=0))
        super().load_state_dict(state_dict)

    def __getstate__(self):
        return {**super().__getstate__(), "steps": 0}


class OneValueForAll(OfTwo):
    def rule_of(self, group):
        return super().rule_of(self.param_groups[0])


def hidden():
    class Hidden(aida.Layerwise):
        rule = (1.0, 1.0)

    return Hidden


BROKEN = {
    "0/0": (
        DividesByZero,
        r"gives beta = nan for ordinary gradients, in step 1 of a layer of shape \(0,\) \(gg=0.0e\+00, gm=0.0e\+00, "
        r"mm=0.0e\+00, dd=0.0e\+00\), where a step would take 1: keep it finite, as by adding a small number to what "
        "the rule divides by",
    ),
    "infinity": (InfiniteWhereTiny, "gives beta = inf for gradients of about 1e-30, in step 1 of a layer of shape"),
    "random": (
        Random,
        r"gives other coefficients when its rule is called again with the same sums \(ordinary gradients\): a rule "
        "depends on its sums and hyperparameters alone",
    ),
    "mixing": (
        MixesUnsaid,
        r"gives a layer other coefficients beside other layers than alone \(ordinary gradients\): let the rule work "
        "layer by layer, or set mixes_layers = True in the class",
    ),
    "ill-conditioned": (
        IllConditioned,
        "steps otherwise with (foreach|fused)=True in torch.float(32|64) on cpu than the eager backend in float64: in "
        r"step \d of ordinary gradients a layer of shape \(.*\) is .* off, where its largest update is .*; let the "
        "rule divide by no difference of sums that may be near 0",
    ),
    "not finite": (
        InfinityLessInfinity,
        r"makes a parameter of shape \(4, 3\) in torch.float32 infinite or nan within 4 steps of gradients of about "
        "1e20",
    ),
    "gradients": (WritesGradients, r"writes to p.grad, which belongs to whoever calls step\(\)"),
    "a second run": (
        OtherAtEachRun,
        "gives other bits in a second run of the same steps: a step is deterministic",
    ),
    "a checkpoint": (
        CountsElsewhere,
        "gives other bits where it goes on from a checkpoint after step 2: what a step depends on is in param_groups "
        "and state alone",
    ),
    "a pickle": (LosesItsCount, "gives other bits where it goes on from a pickle after step 2"),
    "no pickle": (
        hidden(),
        r"cannot be pickled \(.*hidden.*\): define the class at the top of a module, with nothing in its attributes "
        "that pickle refuses",
    ),
    "groups": (
        OneValueForAll,
        "steps two groups with power=1.0 and power=0.5 otherwise than two optimizers with these values: let the rule "
        "read hyperparameters from its arguments alone",
    ),
    "release": (
        Shifts,
        r"gives other parameters with release_gradients than with step\(\): a layer's step depends on the layer alone",
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", BROKEN)
def test_a_broken_contract_is_told(why):
    cls, message = BROKEN[why]
    with pytest.raises(RuntimeError, match=f"^check_member: {cls.__name__} {message}") as error:
        check_member(cls)
    assert "\n" not in str(error.value)


def test_a_wrong_residual_in_the_monitor_is_told(monkeypatch):
    family = definition_for(Constant([torch.nn.Parameter(torch.ones(2))]))
    wrong = lambda *args: replace(family(*args), rule=(0.5, 0.26))  # noqa: E731
    monkeypatch.setitem(DEFINITIONS, f"{Constant.__module__}.{Constant.__qualname__}", wrong)
    with pytest.raises(
        RuntimeError, match=r"^check_member: Constant has a residual of .* \|m\| in a layer of shape"
    ):
        check_member(Constant)


def test_what_a_step_refuses_is_what_is_told():
    cls = type("Three", (aida.Layerwise,), {"rule": staticmethod(lambda gg, gm, mm: (gg, gm, mm))})
    message = r"Three.rule gave 3 values, not (alpha, beta): nothing was stepped"
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}"):
        check_member(cls)
    with pytest.raises(ValueError, match=r"^Invalid power: 9; it must be a finite number from 0 to 4"):
        check_member(OfTwo, power=9)


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(
        TypeError, match=r"^check_member takes a subclass of aida.Layerwise, not <class 'torch.*Adam'>"
    ):
        check_member(torch.optim.Adam)
    with pytest.raises(
        TypeError, match=r"subclass of aida\.Layerwise, not an optimizer: give its class, Constant$"
    ):
        check_member(Constant([torch.nn.Parameter(torch.ones(2))]))
    with pytest.raises(TypeError, match=r"^check_member sets 'fused' itself: leave it out$"):
        check_member(aida.Aida, fused=True)


def test_a_hyperparameter_of_one_value_is_not_compared_between_groups():
    class Fixed(aida.Layerwise):
        own: ClassVar = dict(power=Hyperparameter(1.0, ge=1, le=1))
        rule = staticmethod(lambda gg, mm, *, power: (1.0, 0.5**power))

    check_groups(Subject(Fixed, {}))
    with pytest.raises(RuntimeError, match="steps two groups with power"):
        check_groups(Subject(Unlike, {}))


class Unlike(aida.Layerwise):
    """Reads what the other group has."""

    own: ClassVar = dict(power=Hyperparameter(1.0, ge=1, le=2))
    seen: ClassVar[list] = []

    @staticmethod
    def rule(gg, *, power):
        Unlike.seen.append(power)
        return 1.0, 0.5 ** max(Unlike.seen[-2:])
