"""Members of a user's own: classes of any shape, rules of any kind, arguments that no other member has."""

import copy
import inspect
import pickle

import pytest
import torch

import aida
from aida import family
from aida.optimizers.base import Layerwise
from aida.optimizers.options import Options
from helpers.members import MEMBERS, assert_bitwise, parameters, snapshot, train


class Bare(aida.Aida):
    """Another default and nothing else."""

    own = Options(K=3, xi=1e-20, decoupled_weight_decay=True)


class Keywords(aida.Aida):
    def __init__(self, params, **kwargs):
        super().__init__(params, **kwargs)


class Anything(aida.Aida):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


class Named(aida.Aida):
    """Names an option of the family's, and one of its own."""

    def __init__(self, params, lr=0.5, *, foreach=None, warmup=10, **options):
        super().__init__(params, lr, foreach=foreach, **options)
        self.warmup = warmup


class Maximizes(aida.Aida):
    def __init__(self, params, maximize=True, **options):
        super().__init__(params, maximize=maximize, **options)


class Closed(aida.Aida):
    """Takes what it names alone."""

    def __init__(self, params, lr=1e-3, K=1):
        super().__init__(params, lr, K=K)


class OfAModel(aida.Aida):
    def __init__(self, model, **options):
        super().__init__(model.parameters(), **options)


class Mixin:
    def __init_subclass__(cls, tag="", **kwargs):
        super().__init_subclass__(**kwargs)
        cls.tag = tag

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)


class Mixed(Mixin, aida.Aida, tag="mine"):
    pass


class Grandchild(Named):
    def __init__(self, params, K=1, **options):
        super().__init__(params, K=K, **options)


SHAPES = [Bare, Keywords, Anything, Named, Maximizes, Closed, OfAModel, Mixed, Grandchild]


@pytest.mark.parametrize("cls", SHAPES)
def test_a_subclass_of_any_shape_shows_what_it_takes_and_steps(cls):
    params = parameters()
    source = torch.nn.ParameterList(params) if cls is OfAModel else params
    optimizer = cls(source)
    shown = inspect.signature(cls).parameters
    bound = inspect.signature(cls).bind(source)
    assert "self" not in shown
    if cls is Closed:
        assert list(shown) == ["params", "lr", "K"]
    else:
        assert {"betas", "eps", "K", "xi", "fused", "seed", "reduce_groups"} <= set(shown)
        bound = inspect.signature(cls).bind(source, lr=0.25, eps=1e-6, K=2, foreach=True)
    own = {"foreach": None, "K": 2, "maximize": False}
    plain = aida.Aida(parameters(), **{k: optimizer.defaults[k] for k in ("lr", *own)},
                      decoupled_weight_decay=optimizer.defaults["decoupled_weight_decay"])  # fmt: skip
    for o in (optimizer, plain):
        train(o, range(3))
    assert_bitwise(snapshot(optimizer), snapshot(plain))
    given = cls(*bound.args, **bound.kwargs)
    assert all(given.defaults[k] == v for k, v in bound.kwargs.items())
    for twin in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert twin.defaults == optimizer.defaults


def test_defaults_that_a_subclass_changes_are_shown():
    assert inspect.signature(Named).parameters["lr"].default == 0.5
    assert inspect.signature(Maximizes).parameters["maximize"].default is True
    assert inspect.signature(Bare).parameters["K"].default == 3
    assert inspect.signature(Bare).parameters["decoupled_weight_decay"].default is True
    assert Bare(parameters()).defaults["decoupled_weight_decay"] is True
    assert inspect.signature(Grandchild).parameters["K"].default == 1
    assert Mixed.tag == "mine"


def test_a_shown_signature_of_ones_own_is_kept():
    class Shown(aida.Aida):
        __signature__ = inspect.Signature([])

    assert inspect.signature(Shown).parameters == {}


def rule_with(*names, **own):
    def rule(gg, gm, mm):
        return 1.0, 1.0

    if names:
        rule = {("K", "xi"): family.projection, ("slope",): lambda gg, gm, mm, slope: (slope, slope)}[names]
    return type("Mine", (Layerwise,), {"rule": rule, "own": own})


class InPython(Layerwise):
    rule = (1, 0)


class OfIntegers(Layerwise):
    rule = [-1, 0]  # noqa: RUF012


class AFunction(Layerwise):
    def rule(gg, gm, mm):
        """No `self`, no K and no xi."""
        return 1.0, 1.0


class OfAClass(Layerwise):
    weight = 0.5

    @classmethod
    def rule(cls, gg, gm, mm):
        return cls.weight, cls.weight


RULES = [
    (InPython, (), {}),
    (OfIntegers, (), {}),
    (AFunction, (), {}),
    (OfAClass, (), {}),
    (rule_with(), (), {}),
    (rule_with("K", "xi", K=2, xi=1e-20), ("K", "xi"), {"K": 2, "xi": 1e-20}),
    (rule_with("slope", slope=0.5), ("slope",), {"slope": 0.5}),
    (rule_with(layerwise="post"), (), {"layerwise": "post"}),
]


@pytest.mark.parametrize(("cls", "taken", "own"), RULES)
def test_a_rule_of_any_kind_makes_a_member(cls, taken, own):
    """K and xi are there where the rule takes them; a constant is two floats; a function needs no wrapper."""
    optimizer = cls(parameters(), lr=0.1)
    assert cls.rule_arguments == taken
    assert optimizer.defaults.items() >= own.items()
    assert ("K" in optimizer.defaults) == ("K" in own)
    if isinstance(cls.rule, tuple):
        assert [type(x) for x in cls.rule] == [float, float]
    else:
        alpha, beta = optimizer.rule(1.0, 0.5, 1.0, **{name: own[name] for name in taken})
        assert 0 < alpha <= 1
        assert 0 < beta <= 1
    assert inspect.signature(cls).parameters.keys() >= own.keys()


@pytest.mark.parametrize("value", [0.25, torch.tensor(0.25).numpy()[()]])
def test_an_argument_of_ones_own_is_plain_and_may_differ_by_group(value):
    cls = rule_with("slope", slope=0.5)
    optimizer = cls([{"params": parameters()[:1]}, {"params": parameters()[1:], "slope": value}], slope=0.5)
    assert [group["slope"] for group in optimizer.param_groups] == [0.5, 0.25]
    assert type(optimizer.param_groups[1]["slope"]) is float


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("belief", r"Mine.rule is 'belief'; it must be a pair of numbers \(alpha, beta\), or a function of"),
        ((1.0,), r"Mine.rule is \(1.0,\); it must be a pair"),
        (3, "Mine.rule is 3; it must be a pair"),
        (family.projection, r"Mine.rule takes \(gg, gm, mm, K, xi\): 'K' is neither .* own = dict\(K=0.5\)"),
    ],
)  # fmt: skip
def test_a_rule_that_cannot_be_is_refused_where_it_is_written(rule, message):
    with pytest.raises(TypeError, match=message):
        type("Mine", (Layerwise,), {"rule": rule})


def test_arguments_that_an_inherited_rule_takes_cannot_be_dropped():
    with pytest.raises(TypeError, match=r"Mine.rule takes .*, K, xi"):
        type("Mine", (aida.Aida,), {"own": Options(K=2)})


def test_without_a_rule_there_is_no_optimizer():
    with pytest.raises(TypeError, match="Layerwise has no rule: build a member of the family, such as Aida"):
        Layerwise(parameters())


@pytest.mark.parametrize("cls", MEMBERS)
def test_the_familys_own_rules_are_what_they_were(cls):
    arguments = {family.GRADIENT: (), family.BELIEF: (), family.projection: ("K", "xi")}
    assert cls.rule_arguments == arguments[cls.rule]


def test_K_0_is_adabeliefs_residual_for_projections_alone():
    """A function rule that happens to take a K of 0 keeps its own residual."""

    def gradient(gg, gm, mm, K):
        return gg / gg * -1.0, 0.0 * gg

    cls = type("Mine", (Layerwise,), {"rule": gradient, "own": {"K": 0}})
    ours, theirs = (c(parameters(dtype=torch.float64), foreach=False) for c in (cls, aida.AdamPlus))
    for o in (ours, theirs):
        train(o, range(3))
    assert_bitwise(snapshot(ours), snapshot(theirs))
