"""What convert_state asks for, and what it refuses: each in one sentence, with nothing changed."""

import copy
import re

import numpy as np
import pytest
import torch

import aida
from helpers.conversions import SHAPES, build, trained
from helpers.members import parameters, train


def of(module, name, given=None):
    return trained(lambda params: build(module, name, params, lr=1e-2, **{"eps": 1e-6, **(given or {})}))[1]


def of_torch(name, **given):
    return trained(lambda params: build("torch", name, params, lr=1e-2, **given))[1]


PO, AP, TIMM = "pytorch_optimizer", "adabelief_pytorch", "timm.optim.adabelief"
WD = {"weight_decay": 0.1}


def cases():
    """(state, arguments, what is told)."""
    belief = {"source": "pytorch_optimizer.AdaBelief"}
    yield (
        of(PO, "AdaBelief"),
        {},
        "may be of pytorch_optimizer.Aida or pytorch_optimizer.AdaBelief: give source=",
    )
    yield (
        of(PO, "Aida"),
        {"source": PO},
        "give source='pytorch_optimizer.Aida' or source='pytorch_optimizer.Ada",
    )
    rectified = of(PO, "AdaBelief", {"rectify": True})
    yield (
        rectified,
        belief,
        "do not hold degenerated_to_sgd, n_sma_threshold: give them .* degenerated_to_sgd=True",
    )
    told = {"degenerated_to_sgd": True, "n_sma_threshold": 5}
    yield (
        rectified,
        {**belief, **told, "degenerated_to_sgd": False},
        "degenerated_to_sgd=False cannot .* skips",
    )
    yield (
        rectified,
        {**belief, **told, "n_sma_threshold": 4},
        "n_sma_threshold=4 cannot be converted: ours is 5",
    )
    yield of(PO, "AdaBelief", {"ams_bound": True}), belief, "ams_bound=True cannot .* largest v so far"
    yield (
        of(PO, "AdaBelief", {**WD, "fixed_decay": True}),
        belief,
        "fixed_decay=True cannot .* not by lr.weight_decay",
    )
    yield (
        of(PO, "AdaBelief", {"adanorm": True}),
        belief,
        "adanorm=True cannot be converted: it scales gradients",
    )
    yield (
        of(PO, "AdaBelief", {"adam_debias": True}),
        belief,
        "adam_debias=True cannot be converted: it leaves out",
    )
    plain = of(AP, "AdaBelief", {"rectify": False})
    yield (
        plain,
        {},
        "of adabelief_pytorch.AdaBelief do not hold rectify, degenerated_to_sgd: .* rectify=True, deg",
    )
    decayed = of(AP, "AdaBelief", {"rectify": False, **WD})
    asks = "do not hold weight_decouple, fixed_decay: .* weight_decouple=True, fixed_decay=False$"
    yield decayed, {"rectify": False}, asks
    yield decayed, {"rectify": True}, "do not hold weight_decouple, fixed_decay, degenerated_to_sgd: "
    yield decayed, {"rectify": False, "weight_decouple": True, "fixed_decay": True}, "fixed_decay=True cannot"
    amsgrad = of(AP, "AdaBelief", {"rectify": False, "amsgrad": True})
    yield amsgrad, {"rectify": False}, "amsgrad=True cannot be converted: it divides by the largest"
    yield (
        of(TIMM, "AdaBelief", {"degenerated_to_sgd": False}),
        {},
        "degenerated_to_sgd=False cannot be converted",
    )
    yield of(TIMM, "AdaBelief", {"eps": 0.0}), {}, "Invalid eps value: 0.0; it must be"
    yield of_torch("Adam", amsgrad=True), {}, "a state of torch.Adam with amsgrad=True cannot"
    older = of_torch("AdamW", weight_decay=0.1)
    older["param_groups"][0].pop("decoupled_weight_decay", None)  # torch 2.6 has none
    yield older, {}, "may be of torch.Adam or torch.AdamW: give source='torch.Adam' or source='torch.AdamW'"
    yield (
        of_torch("RAdam"),
        {},
        "saved by torch's Adam, AdamW or a like one: .* no conversion, unless source=",
    )
    yield of_torch("SGD", momentum=0.9), {}, "saved by SGD with momentum: .* no conversion"
    yield (
        of_torch("SGD", momentum=0.9),
        {"source": "torch.Adam"},
        "has 'momentum_buffer' and no 'step' or 'exp_avg'",
    )
    yield (
        older,
        {"source": "keras"},
        "source='keras' is unknown: give 'auto' or one of pytorch_optimizer.Aida, ",
    )
    yield {"state": {}, "param_groups": [{"params": [0, 1, 2]}]}, {}, "does not tell which optimizer saved it"
    train(ours := aida.Aida(parameters(SHAPES, torch.float64)), range(2))
    yield ours.state_dict(), {}, "saved by Aida of aida: load it into that member as it is"
    published = {
        i: {"step": 3, "exp_avg": torch.ones(s), "exp_avg_var": torch.ones(())} for i, s in enumerate(SHAPES)
    }
    group = {
        "lr": 0.1,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0,
        "amsgrad": False,
        "params": [0, 1, 2],
    }
    pooled = {"state": published, "param_groups": [group]}
    yield pooled, {}, "may be of published.LAdam or published.LAdaBelief"
    told = {"source": "published.LAdam", "rectify": False}
    yield pooled, told, "v of parameter 0 .* is one number for the layer, .* layerwise='pre'"
    yield pooled, {**told, "rectify": True}, "rectify=True cannot be converted: it rectifies from rho > 4"
    wrong = of(TIMM, "AdaBelief", {"rectify": False})
    wrong["param_groups"][0]["eps"] = 1e-2
    yield (
        wrong,
        {},
        r"v of parameter 0 .* is smaller than what eps alone adds up to in 7 steps, 0\.0698: timm",
    )


CASES = [(state, arguments, told) for state, arguments, told in cases()]


@pytest.mark.parametrize(("state", "arguments", "told"), CASES, ids=[told[:60] for _, _, told in CASES])
def test_it_is_refused_in_one_sentence(state, arguments, told):
    train(optimizer := aida.AdaBelief(parameters(SHAPES, torch.float64)), range(1))
    before, given = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(state)
    with pytest.raises(ValueError, match=told) as caught:
        aida.convert_state(state, optimizer, **arguments)
    assert "\n" not in str(caught.value)
    assert str(optimizer.state_dict()) == str(before)
    assert str(state) == str(given)


def of_0(**values):
    return lambda state: state["state"][0].update(values)


def of_v(x):
    return lambda state: state["state"][0].update(
        {k: x for k in state["state"][0] if k.startswith("exp_avg_")}
    )


def of_group(**values):
    return lambda state: state["param_groups"][0].update(values)


DAMAGE = {
    "states a list": (lambda state: state.update(state=[]), "a `state` and `param_groups` that are a list"),
    "groups None": (lambda state: state.update(param_groups=None), "a dict and a NoneType"),
    "a group 3": (lambda state: state.update(param_groups=[3]), "has 3 for a group of parameters"),
    "no params": (lambda state: state["param_groups"][0].pop("params"), "for a group of parameters"),
    "names too few": (of_group(param_names=["a"]), "has 1 names .* for the 3 parameters"),
    "entry 3": (lambda state: state["state"].update({0: 3}), "for parameter 0 3 in place of a dict"),
    "entry a tensor": (lambda state: state["state"].update({0: torch.ones(2)}), "in place of a dict"),
    "step text": (of_0(step="x"), "parameter 0 .* the step 'x', which is no number of steps"),
    "step None": (of_0(step=None), "parameter 0 .* the step None, which is no number"),
    "step of two": (of_0(step=torch.ones(2)), "which is no number of steps"),
    "step nan": (of_0(step=float("nan")), "the step nan, which is no number of steps"),
    "m NumPy's": (of_0(exp_avg=torch.ones(SHAPES[0]).numpy()), "a ndarray as exp_avg in place of a tensor"),
    "m a list": (of_0(exp_avg=[1.0]), "a list as exp_avg in place of a tensor"),
    "v a number": (of_v(1.0), "a float as exp_avg_(var|sq) in place"),
    "v of another shape": (
        of_v(torch.ones(3, 4)),
        r"has the shape \(4, 3\) and its saved moments \(3, 4\)",
    ),
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize(
    ("state", "source"),
    [(of(TIMM, "AdaBelief"), "timm.AdaBelief"), (of_torch("AdamW"), "torch.AdamW")],
    ids=["timm", "torch"],
)
def test_a_damaged_state_is_refused_in_one_sentence(state, source, how):
    """Before anything is loaded, and not at the step after it."""
    state = copy.deepcopy(state)
    damage, told = DAMAGE[how]
    damage(state)
    with pytest.raises(ValueError, match=told) as caught:
        aida.convert_state(state, aida.AdaBelief(parameters(SHAPES, torch.float64)), source)
    assert "\n" not in str(caught.value)


def test_without_betas_or_eps_no_eps_is_taken_off():
    for lost in (["betas"], ["betas", "eps"]):
        state = of(TIMM, "AdaBelief")
        for key in lost:
            del state["param_groups"][0][key]
        told = f"group of parameter 0 .* has no {' and no '.join(map(repr, lost))}, without which eps cannot"
        with pytest.raises(ValueError, match=told):
            aida.convert_state(state, aida.AdaBelief(parameters(SHAPES, torch.float64)))


def test_the_arguments_of_aida_are_asked_for_where_it_goes_on():
    state = of(PO, "Aida")
    aida_ = aida.Aida(parameters(SHAPES, torch.float64))
    with pytest.raises(ValueError, match=r"do not hold k, xi: give them .* its defaults are k=2, xi=1e-20$"):
        aida.convert_state(state, aida_, "pytorch_optimizer.Aida")
    with pytest.warns(UserWarning, match="AdaBelief from pytorch_optimizer.Aida: a warm start"):
        aida.convert_state(state, aida.AdaBelief(parameters(SHAPES)), "pytorch_optimizer.Aida")


@pytest.mark.parametrize(
    ("state", "arguments", "told"),
    [
        (
            of(TIMM, "AdaBelief"),
            {"rectify": True},
            "no 'rectify' for timm.AdaBelief: its checkpoints hold all",
        ),
        (
            of(AP, "AdaBelief"),
            {"k": 2},
            "no 'k' for adabelief_pytorch.AdaBelief: it takes rectify, weight_decouple",
        ),
        ("run/last.pt", {}, "not 'run/last.pt'; read a file with torch.load first"),
        (
            {"model": 1, "optimizer": 2},
            {},
            "this one has 'model', 'optimizer' and no 'state' or 'param_groups'",
        ),
    ],
    ids=["timm", "adabelief-pytorch", "a path", "a checkpoint"],
)
def test_what_it_does_not_take(state, arguments, told):
    with pytest.raises(TypeError, match=r"^convert_state takes .*" + re.escape(told)):
        aida.convert_state(state, aida.AdaBelief(parameters(SHAPES)), **arguments)


def test_the_optimizer_is_one_of_ours():
    with pytest.raises(TypeError, match="an optimizer of aida, not for AdamW: build the new optimizer first"):
        aida.convert_state({}, torch.optim.AdamW(parameters()))


def test_a_late_layer_of_a_counter_per_group_is_refused_and_can_be_begun_anew():
    """pytorch_optimizer counts steps per group, so that eps of a late layer has not added up to as much."""
    source = build(PO, "AdaBelief", parameters(SHAPES, torch.float64), lr=1e-2, eps=1e-6)
    params = source.param_groups[0]["params"]
    for t in range(9):
        for p in params[: 3 if t == 8 else 2]:
            p.grad = torch.full_like(p, 1e-3)
        source.step()
    state, optimizer = source.state_dict(), aida.AdaBelief(parameters(SHAPES, torch.float64))
    with pytest.raises(ValueError, match=r"parameter 2 .* delete state_dict\['state'\]\[2\] to begin"):
        aida.convert_state(state, optimizer, "pytorch_optimizer.AdaBelief")
    del state["state"][2]
    optimizer.load_state_dict(aida.convert_state(state, optimizer, "pytorch_optimizer.AdaBelief"))
    assert len(optimizer.state) == 2


def test_a_layer_without_gradients_has_a_v_of_zero():
    """eps alone has added up there, which rounding takes off nearly, not exactly."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        source = build(TIMM, "AdaBelief", parameters(SHAPES, dtype), eps=1e-8, rectify=False)
        for _ in range(200):
            for p in source.param_groups[0]["params"]:
                p.grad = torch.zeros_like(p)
            source.step()
        optimizer = aida.AdaBelief(parameters(SHAPES, dtype))
        made = aida.convert_state(source.state_dict(), optimizer)
        worst = max(s["exp_avg_var"].abs().max().item() for s in made["state"].values())
        assert min(s["exp_avg_var"].min().item() for s in made["state"].values()) >= 0
        assert worst <= 1e-4 * 200 * 1e-8


def test_eps_alone_in_a_float32_v_is_taken_off_however_it_was_rounded():
    """Of 2000 runs without gradients, that whose v has lost most: more than eps of float32/(1-b2)."""
    draw, steps = np.random.default_rng(0), 30_000
    b2, eps = 1 - 10 ** draw.uniform(-4, -1, 2000), 10 ** draw.uniform(-16, -6, 2000)
    v, b2_, eps_ = np.zeros(2000, np.float32), b2.astype(np.float32), eps.astype(np.float32)
    for _ in range(steps):
        v = v * b2_ + eps_
    lost = (1 - v / (eps * (1 - b2**steps) / (1 - b2))) * (1 - b2)
    worst = int(lost.argmax())
    assert lost[worst] > np.finfo(np.float32).eps
    state = of(TIMM, "AdaBelief", {"rectify": False})
    state["param_groups"][0].update(betas=(0.9, float(b2[worst])), eps=float(eps[worst]))
    for of_p in state["state"].values():
        of_p.update(step=steps, exp_avg_var=torch.full_like(of_p["exp_avg"].float(), float(v[worst])))
    made = aida.convert_state(state, aida.AdaBelief(parameters(SHAPES, torch.float64)))
    assert all(of_p["exp_avg_var"].count_nonzero() == 0 for of_p in made["state"].values())


@pytest.mark.parametrize("name", ["StableAdamW", "Lamb", "AdamP", "Yogi", "AdaNorm", "Lion"])
def test_another_optimizer_of_a_library_is_not_taken_for_its_adabelief(name):
    state, optimizer = of(PO, name), aida.AdaBelief(parameters(SHAPES, torch.float64))
    who = r"another optimizer \(its groups have 'weight_decouple'\)"
    with pytest.raises(ValueError, match=f"saved by {who}: its parameters' states have .* is no conversion"):
        aida.convert_state(state, optimizer)
    with pytest.raises(ValueError, match=f"saved by {who}, not by AdaBelief: .* load it into that"):
        optimizer.load_state_dict(state)
    with pytest.raises(ValueError, match=r"so that it is none of pytorch_optimizer\.AdaBelief"):
        aida.convert_state(state, optimizer, source="pytorch_optimizer.AdaBelief")


def test_a_layer_with_an_empty_state_does_not_hide_who_saved_the_others():
    """torch makes one wherever somebody looks a parameter's state up."""
    state = of(PO, "AdaBelief")
    state["state"][2] = {}
    with pytest.raises(ValueError, match="saved by pytorch_optimizer"):
        aida.AdaBelief(parameters(SHAPES, torch.float64)).load_state_dict(state)


def test_an_radam_with_the_buffer_of_adabelief_pytorch_is_not_taken_for_it():
    """Both are made from one file, whose groups keep ten rows of rectification."""
    state = of_torch("Adam")
    for group in state["param_groups"]:
        for key in ("decoupled_weight_decay", "capturable", "foreach", "fused"):
            group.pop(key, None)
        group["buffer"] = [[None] * 3] * 10
    with pytest.raises(ValueError, match=r"saved by another optimizer \(its groups have 'buffer'\)"):
        aida.convert_state(state, aida.AdaBelief(parameters(SHAPES, torch.float64)))


LOADED = [
    (of(TIMM, "AdaBelief"), "timm's AdaBelief .its groups have 'degenerated_to_sgd'."),
    (of(AP, "AdaBelief"), "adabelief-pytorch"),
    (of(PO, "Aida"), "pytorch_optimizer"),
    (of_torch("AdamW"), "torch's Adam, AdamW"),
    (CASES[-4][0], "the published code of LAdam or LAdaBelief .its groups have no 'decoupled_weight_decay'."),
]


@pytest.mark.parametrize(("state", "who"), LOADED, ids=lambda x: x if isinstance(x, str) else "")
def test_a_load_names_the_source_and_this_function(state, who):
    optimizer = aida.Aida(parameters(SHAPES, torch.float64))
    fix = r"load what aida.convert_state\(state_dict, optimizer\) makes of it, or load the model alone"
    with pytest.raises(ValueError, match=f"this state was saved by {who}.*, not by Aida: .*; {fix}"):
        optimizer.load_state_dict(state)
    with pytest.raises(
        ValueError, match=r"SGD with momentum, .* load it into that optimizer, or load the model"
    ):
        optimizer.load_state_dict(of_torch("SGD", momentum=0.9))
