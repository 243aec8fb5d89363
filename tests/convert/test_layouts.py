"""Groups in another form, parameters with names, and which values of a group come from where."""

import copy
import warnings

import pytest
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

import aida
from helpers.conversions import both_go_on, build, trained
from helpers.members import parameters, train

DECAY = {"lr": 1e-2, "eps": 1e-6, "rectify": False}


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)).double()


def timm(params, **given):
    return build("timm.optim.adabelief", "AdaBelief", params, **{**DECAY, **given})


def by_dimensions(net):
    """Matrices and vectors apart, as trainers group them: another order than the model's."""
    named = [*net.named_parameters()]
    return [
        {"params": [x for x in named if x[1].dim() > 1]},
        {"params": [x for x in named if x[1].dim() < 2]},
    ]


def twin(net):
    return copy.deepcopy(net)


def of_model(net, optimizer):
    """The state by the parameters' names."""
    return {name: optimizer.state[p] for name, p in net.named_parameters() if p in optimizer.state}


def assert_same_states(ours, theirs, eps=1e-6):
    assert ours.keys() == theirs.keys()
    for name, state in theirs.items():
        t = float(state["step"])
        torch.testing.assert_close(ours[name]["exp_avg"], state["exp_avg"], rtol=0, atol=0)
        v = (state["exp_avg_var"] - eps * (1 - 0.999**t) / (1 - 0.999)).clamp(min=0)
        torch.testing.assert_close(ours[name]["exp_avg_var"], v, rtol=1e-12, atol=0)
        assert ours[name]["step"] == t


@pytest.mark.parametrize("build_ours", [by_dimensions, lambda net: net.named_parameters()])
@pytest.mark.parametrize("saved_with_names", [True, False])
def test_with_names_groups_may_differ(build_ours, saved_with_names):
    old, new = model(), model()
    source = timm(old.named_parameters() if saved_with_names else old.parameters(), weight_decay=0.1)
    train(source, range(4))
    optimizer = aida.AdaBelief(build_ours(new), weight_decay=1)
    names = None if saved_with_names else [name for name, _ in old.named_parameters()]
    optimizer.load_state_dict(aida.convert_state(source.state_dict(), optimizer, param_names=names))
    assert_same_states(of_model(new, optimizer), of_model(old, source))
    assert {g["weight_decay"] for g in optimizer.param_groups} == {0.1}


def test_from_two_groups_into_one():
    old, new = model(), model()
    groups = by_dimensions(old)
    source = timm(groups)
    train(source, range(3))
    optimizer = aida.AdaBelief(new.named_parameters())
    optimizer.load_state_dict(aida.convert_state(source.state_dict(), optimizer))
    assert_same_states(of_model(new, optimizer), of_model(old, source))
    source.param_groups[0]["weight_decay"] = 0.1
    with pytest.raises(ValueError, match=r"come from saved groups with different weight_decay, 0.1 and 0"):
        aida.convert_state(source.state_dict(), optimizer)


def test_without_names_groups_must_agree():
    _source, state = trained(timm)
    params = parameters(((4, 3), (5,), (2, 3, 2)), torch.float64)
    optimizer = aida.AdaBelief([{"params": params[:1]}, {"params": params[1:]}])
    with pytest.raises(ValueError, match=r"groups of \[3\] parameters and the optimizer groups of \[1, 2\]"):
        aida.convert_state(state, optimizer)
    with pytest.raises(ValueError, match=r"param_names has 2 names .2 different. for the 3 parameters"):
        aida.convert_state(state, optimizer, param_names=["a", "b"])
    with pytest.raises(
        ValueError, match=r"parameter 0 .* has the shape \(5,\) and its saved moments \(4, 3\)"
    ):
        aida.convert_state(state, aida.AdaBelief(params[1:] + params[:1]))


def test_names_of_the_saved_parameters_are_not_ignored():
    """Of an optimizer without names they would tell nothing: moments of one shape would be exchanged."""
    square = lambda: torch.nn.Parameter(torch.randn(3, 3, dtype=torch.float64))  # noqa: E731
    named = {"a": square(), "b": square()}
    source = timm([named["b"], named["a"]])
    train(source, range(2))
    told = (
        r"^param_names are given and the optimizer's parameters have no names: build it of model\.named_param"
    )
    with pytest.raises(ValueError, match=told):
        aida.convert_state(source.state_dict(), aida.AdaBelief(named.values()), param_names=["b", "a"])
    optimizer = aida.AdaBelief([*named.items()])
    made = aida.convert_state(source.state_dict(), optimizer, param_names=["b", "a"])["state"]
    for i, p in enumerate(named.values()):
        assert torch.equal(made[i]["exp_avg"], source.state[p]["exp_avg"])


def test_a_parameter_on_one_side_alone_is_left_out_with_a_warning():
    old, new = model(), model()
    source = timm(old.named_parameters())
    train(source, range(3))
    optimizer = aida.AdaBelief([(n.replace("1.", "head."), p) for n, p in new.named_parameters()])
    with pytest.warns(UserWarning, match="has no") as told:
        state = aida.convert_state(source.state_dict(), optimizer)
    assert sorted(str(w.message) for w in told) == [
        "the optimizer has no '1.weight', '1.bias': left out of what is converted",
        "the saved state has no 'head.weight', 'head.bias': what is not there begins anew",
    ]
    optimizer.load_state_dict(state)
    assert len(optimizer.state) == 2
    train(optimizer, range(2))
    other = aida.AdaBelief([("x." + n, p) for n, p in new.named_parameters()])
    with pytest.raises(
        ValueError, match=r"no name of the saved .* '0.weight', .* and 1 more and 'x.0.weight'"
    ):
        aida.convert_state(source.state_dict(), other)


def test_a_frozen_parameter_begins_later():
    source = timm(parameters(dtype=torch.float64))
    params = source.param_groups[0]["params"]
    for p in params[1:]:
        p.grad = torch.ones_like(p)
    source.step()
    optimizer = aida.AdaBelief([torch.nn.Parameter(p.detach().clone()) for p in params])
    optimizer.load_state_dict(aida.convert_state(source.state_dict(), optimizer))
    assert len(optimizer.state) == 2
    assert both_go_on(source, optimizer)[1] <= 1e-12


@pytest.mark.parametrize(
    "layers", ["module", lambda name, p: [slice(0, 1), slice(1, None)]], ids=["module", "cut"]
)
def test_other_layers_take_a_v_of_each_weight_and_refuse_a_pooled_one(layers):
    old, new = model(), model()
    source = timm(old.parameters())
    old(torch.ones(1, 3).double()).sum().backward()
    source.step()
    optimizer = aida.AdaBelief(new.named_parameters(), layers=layers)
    optimizer.load_state_dict(aida.convert_state(source.state_dict(), optimizer))
    assert_same_states(of_model(new, optimizer), of_model(old, source))
    pooled = aida.LAdaBelief(new.named_parameters(), layers=layers)
    with pytest.raises(ValueError, match=r"one pooled v per tensor, .* layers='tensor'"):
        aida.convert_state(source.state_dict(), pooled)


def test_names_as_keys_of_distributed_checkpoints():
    old, new = model(), model()
    source = timm(old.parameters())
    old(torch.ones(1, 3).double()).sum().backward()
    source.step()
    state = get_optimizer_state_dict(old, source)
    assert "0.weight" in state["state"]
    optimizer = aida.AdaBelief(by_dimensions(new))
    optimizer.load_state_dict(aida.convert_state(state, optimizer))
    assert_same_states(of_model(new, optimizer), of_model(old, source))


def test_which_values_are_the_sources():
    source = timm(
        [{"params": parameters(dtype=torch.float64), "layer_id": 3, "initial_lr": 0.5}],
        lr=torch.tensor(0.25),
        betas=(0.8, 0.95),
        weight_decay=0.1,
        decoupled_decay=False,
    )
    train(source, range(2))
    own = {"foreach": False, "state_dtype": "bfloat16", "seed": 5, "stochastic_rounding": True}
    optimizer = aida.AdaBelief(parameters(dtype=torch.float64), weight_decay=9, rectify=True, **own)
    optimizer.load_state_dict(aida.convert_state(source.state_dict(), optimizer))
    group = optimizer.param_groups[0]
    theirs = {"betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1, "decoupled_weight_decay": False}
    theirs |= {"lr": torch.tensor(0.25), "rectify": False, "layer_id": 3, "initial_lr": 0.5}
    assert {key: group[key] for key in (*own, *theirs)} == {**own, **theirs}
    known = {*optimizer.defaults, "params", "layer_id", "initial_lr"}
    assert {*group} == known


def test_a_source_that_has_not_stepped_gives_its_values_alone():
    source = timm(parameters(), weight_decay=0.2)
    optimizer = aida.AdaBelief(parameters())
    optimizer.load_state_dict(aida.convert_state(source.state_dict(), optimizer))
    assert not optimizer.state
    assert optimizer.param_groups[0]["weight_decay"] == 0.2


ADAMS = [("Adam", {}), ("AdamW", {}), ("Adam", {"weight_decay": 0.1}), ("AdamW", {"weight_decay": 0.1})]


@pytest.mark.parametrize(("name", "given"), ADAMS, ids=str)
@pytest.mark.parametrize("cls", [aida.AdamPlus, aida.Aida, aida.LAdam, aida.LAida, aida.AdaBelief])
@pytest.mark.parametrize("older", [False, True], ids=["now", "older"])
def test_adam_is_a_warm_start_and_said_so(cls, name, given, older):
    source, state = trained(lambda params: build("torch", name, params, lr=1e-2, **given))
    arguments = {}
    if older:
        state["param_groups"][0].pop("decoupled_weight_decay", None)
    is_told = "decoupled_weight_decay" in state["param_groups"][0]  # not in torch 2.6
    if not is_told and (given.get("weight_decay") or name == "AdamW"):
        arguments = {"source": f"torch.{name}"}
    optimizer = cls(parameters(((4, 3), (5,), (2, 3, 2)), torch.float64), lr=9, eps=1e-9)
    with pytest.warns(UserWarning, match=f"{cls.__name__} from torch.{name}: a warm start") as told:
        made = aida.convert_state(state, optimizer, **arguments)
    assert told[0].filename == __file__
    assert "eps stays the optimizer's" in str(told[0].message)
    assert ("fades" in str(told[0].message)) == (cls not in (aida.AdamPlus, aida.LAdam))
    optimizer.load_state_dict(made)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["eps"]) == (1e-2, 1e-9)
    assert group["weight_decay"] == source.param_groups[0]["weight_decay"]
    assert group["decoupled_weight_decay"] == (name == "AdamW")
    pooled = group.get("layerwise") == "pre"
    for p, q in zip(source.param_groups[0]["params"], optimizer.param_groups[0]["params"], strict=True):
        theirs, ours = source.state[p], optimizer.state[q]
        v = theirs["exp_avg_sq"].mean() if pooled else theirs["exp_avg_sq"]
        torch.testing.assert_close(ours["exp_avg"], theirs["exp_avg"], rtol=0, atol=0)
        torch.testing.assert_close(ours["exp_avg_var"], v, rtol=1e-14, atol=0)
        assert ours["step"] == theirs["step"] == 7
    train(optimizer, range(7, 9))


def test_adam_with_a_tiny_eps_goes_on_in_adamplus():
    """Where eps is nothing to either, the step is the same: counters, m and v are where they belong."""
    source, state = trained(lambda params: build("torch", "AdamW", params, lr=1e-2, eps=1e-30))
    params = [torch.nn.Parameter(p.detach().clone()) for p in source.param_groups[0]["params"]]
    optimizer = aida.AdamPlus(params, eps=1e-30)
    with warnings.catch_warnings(action="ignore"):
        optimizer.load_state_dict(aida.convert_state(state, optimizer, source="torch.AdamW"))
    assert both_go_on(source, optimizer)[1] <= 1e-12


def test_elementwise_into_pooled_takes_the_mean_and_says_warm():
    _source, state = trained(timm)
    optimizer = aida.LAdaBelief(parameters(((4, 3), (5,), (2, 3, 2)), torch.float64))
    with pytest.warns(UserWarning, match="LAdaBelief from timm.AdaBelief: a warm start"):
        optimizer.load_state_dict(aida.convert_state(state, optimizer))
    inside = 1e-6 * (1 - 0.999**7) / (1 - 0.999)
    for s, ours in zip(state["state"].values(), optimizer.state.values(), strict=True):
        torch.testing.assert_close(ours["exp_avg_var"], s["exp_avg_var"].mean() - inside, rtol=1e-12, atol=0)


@pytest.mark.parametrize("backend", [{"foreach": False}, {"foreach": True}])
def test_complex_parameters(backend):
    make = lambda params: build("pytorch_optimizer", "AdaBelief", params, lr=1e-2, eps=1e-6, foreach=False)  # noqa: E731
    source, state = trained(make, torch.complex128)
    params = [torch.nn.Parameter(p.detach().clone()) for p in source.param_groups[0]["params"]]
    optimizer = aida.AdaBelief(params, **backend)
    optimizer.load_state_dict(aida.convert_state(state, optimizer, source="pytorch_optimizer.AdaBelief"))
    assert both_go_on(source, optimizer)[1] <= 1e-12


def test_a_state_from_another_device_goes_to_the_parameters():
    _source, state = trained(timm)
    params = parameters(((4, 3), (5,), (2, 3, 2)), torch.float64)
    optimizer = aida.AdaBelief(params)
    made = aida.convert_state(state, optimizer)
    assert all(s["exp_avg_var"].device.type == "cpu" for s in made["state"].values())
    if torch.cuda.is_available():
        for s in state["state"].values():
            s["exp_avg"], s["exp_avg_var"] = s["exp_avg"].cuda(), s["exp_avg_var"].cuda()
        optimizer.load_state_dict(aida.convert_state(state, optimizer))
        train(optimizer, range(2))


def test_a_group_of_new_parameters_alone_keeps_its_own_values():
    old, new = model(), model()
    source = timm(old.named_parameters(), weight_decay=0.1)
    train(source, range(2))
    head = [("head", torch.nn.Parameter(torch.ones(2).double()))]
    groups = [{"params": new.named_parameters()}, {"params": head, "lr": 0.5, "weight_decay": 0.3}]
    optimizer = aida.AdaBelief(groups, lr=0.25)
    with pytest.warns(UserWarning, match="has no 'head': what is not there begins anew"):
        optimizer.load_state_dict(aida.convert_state(source.state_dict(), optimizer))
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(1e-2, 0.1), (0.5, 0.3)]
