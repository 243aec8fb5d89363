"""Layers in checkpoints, in backward, in parameters that come later, and what is refused."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch.nn import Parameter

import aida
from aida.monitor.names import named_layers
from helpers.edits import replace
from helpers.layered import LAYERS, NAMES, SHARED, groups_of, mixed, parameters
from helpers.members import assert_bitwise, assert_near, set_gradients, snapshot, through_a_file, train

every_layers = pytest.mark.parametrize("layers", LAYERS, ids=["module", "mixed"])


@every_layers
@pytest.mark.parametrize("how", ["file", "deepcopy", "pickle"])
@pytest.mark.parametrize(("cls", "own"), [(aida.Aida, {}), (aida.LAida, {})])
def test_a_copy_goes_on_to_the_bit(cls, own, how, layers):
    make = lambda params: cls(groups_of(params), layers=layers, state_dtype="bfloat16", **SHARED, **own)  # noqa: E731
    params = parameters(torch.float32)
    optimizer = make(params)
    train(optimizer, range(1, 4))
    if how == "file":
        fresh = [Parameter(p.detach().clone()) for p in params]
        other = make(fresh)
        other.load_state_dict(through_a_file(optimizer.state_dict()))
    else:
        other = copy.deepcopy(optimizer) if how == "deepcopy" else pickle.loads(pickle.dumps(optimizer))
        assert other.layering.layers == layers
    assert_bitwise(snapshot(other), snapshot(optimizer))
    for one in (optimizer, other):
        train(one, range(4, 7))
    assert_bitwise(snapshot(other), snapshot(optimizer))


def test_a_state_says_what_its_layers_were():
    def rows(name, p):
        return [slice(0, 2), slice(2, None)] if p.dim() else None

    trained = aida.Aida([Parameter(torch.ones(4, 2))], layers=rows)
    train(trained, range(1, 3))
    state = trained.state_dict()
    assert "layers" not in aida.Aida([Parameter(torch.ones(4, 2))]).state_dict()["param_groups"][0]
    plain = aida.Aida([Parameter(torch.ones(4, 2))])
    with pytest.raises(
        ValueError, match=r"^this state was saved with layers='a function that makes 2 layers of 1"
    ):
        plain.load_state_dict(state)
    assert not plain.state
    alike = aida.Aida([Parameter(torch.ones(4, 2))], layers=lambda name, p: (slice(2), slice(2, 4)))
    alike.load_state_dict(state)
    del state["param_groups"][0]["layers"]
    plain.load_state_dict(state)
    train(plain, range(3, 4))


def test_a_pooled_v_of_other_layers_is_refused():
    rows = lambda name, p: [slice(0, 2), slice(2, 4)]  # noqa: E731
    quarters = lambda name, p: [0, 1, 2, 3]  # noqa: E731
    tensor, halves, fourths = (
        aida.LAida([Parameter(torch.ones(4, 2))], layers=layers) for layers in ("tensor", rows, quarters)
    )
    for optimizer in (tensor, halves, fourths):
        train(optimizer, range(1, 3))
    for to, of, said in (
        (tensor, halves, "2 numbers"),
        (halves, tensor, "1 numbers"),
        (halves, fourths, "4 n"),
    ):
        before, state = snapshot(to), copy.deepcopy(of.state_dict())
        state["param_groups"][0].pop("layers", None)
        with pytest.raises(ValueError, match=rf"^exp_avg_var of a parameter of shape \(4, 2\) has {said}"):
            to.load_state_dict(state)
        assert_bitwise(snapshot(to), before)
    (p,) = halves.param_groups[0]["params"]
    halves.state[p]["exp_avg_var"] = torch.zeros(3)
    set_gradients([p], 3)
    with pytest.raises(
        RuntimeError, match=r"has 3 numbers, one per layer, and the parameter is 2 layers here"
    ):
        halves.step()


def network(bias=True):
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Linear(6, 300, bias=bias), torch.nn.LayerNorm(300), torch.nn.Linear(300, 2)
    )


@pytest.mark.parametrize("cls", [aida.Aida, aida.LAida])
@pytest.mark.parametrize("frozen", [(), ("0.bias", "1.weight")])
def test_released_layers_wait_for_each_other(cls, frozen, monkeypatch):
    monkeypatch.setattr("aida.optimizers.release.WAITING_BYTES", 1)
    results = []
    for released in (False, True):
        net = network()
        for name, p in net.named_parameters():
            p.requires_grad_(name not in frozen)
        optimizer = cls(net.named_parameters(), layers="module", **SHARED)
        handle = aida.release_gradients(optimizer, net) if released else None
        for t in range(3):
            optimizer.zero_grad()
            net(torch.full((4, 6), t + 1.0)).square().mean().backward()
            if handle is None:
                optimizer.step()
        results.append(snapshot(optimizer))
    assert_bitwise(*results)


def test_a_layer_of_two_backwards_is_refused_by_release():
    w, b = Parameter(torch.ones(3)), Parameter(torch.ones(3))
    net = torch.nn.ParameterDict({"w": w, "b": b})
    optimizer = aida.Aida(net.named_parameters(), layers="module")
    with aida.release_gradients(optimizer, net):
        for _ in range(2):
            optimizer.zero_grad()
            w.square().sum().backward()
            with pytest.raises(
                RuntimeError, match=r"^tensors of layer '\(root\)' have their gradients in different back"
            ):
                b.square().sum().backward()
        optimizer.zero_grad()
        (w * b).sum().backward()
    assert optimizer.state[w]["step"] == 3
    assert optimizer.state[b]["step"] == 1


def test_parameters_that_come_later_are_asked_of():
    asked = []

    def together(name, p):
        asked.append((name, tuple(p.shape)))
        return "all"

    first, second = Parameter(torch.ones(3)), Parameter(torch.ones(2))
    optimizer = aida.Aida([("first", first)], layers=together, **SHARED)
    assert not optimizer.layering.shares
    train(optimizer, range(1, 3))
    assert asked == [("first", (3,))]
    optimizer.add_param_group({"params": [("second", second)]})
    both = aida.Aida([("first", Parameter(torch.ones(5)))], **SHARED)
    # One layer of five elements: with new states, as one tensor of five.
    for p in (first, second):
        p.data.fill_(1.0)
    optimizer.state.clear()
    (joined,) = both.param_groups[0]["params"]
    for t in range(3):
        joined.grad = torch.arange(5.0) + t
        first.grad, second.grad = joined.grad[:3], joined.grad[3:]
        optimizer.step()
        both.step()
    assert_near([torch.cat([first, second])], [joined], 1e-6)
    optimizer.param_groups[1]["params"] = [replaced := Parameter(torch.ones(4))]
    replaced.grad = torch.ones(4)
    optimizer.step()
    assert optimizer.layering.members("all") == [first, replaced]
    assert asked == [("first", (3,)), ("second", (2,)), ("second", (4,))]


@pytest.mark.parametrize("layers", ["module", mixed], ids=["module", "mixed"])
@pytest.mark.parametrize("cls", [aida.Aida, aida.LAida])
def test_a_compiled_step_has_the_same_layers(cls, layers):
    results = []
    for compiled in (False, True):
        params = parameters(torch.float32)
        optimizer = cls([*zip(NAMES, params, strict=True)], layers=layers, foreach=True, **SHARED)
        step = torch.compile(optimizer.step, backend="eager", fullgraph=False) if compiled else optimizer.step
        for t in range(1, 4):
            set_gradients(params, t)
            step()
        results.append(snapshot(optimizer))
    assert_near(*results, 1e-5)


@pytest.mark.parametrize(
    ("error", "found", "said"),
    [
        (
            ValueError,
            [slice(0, 2)],
            r"puts element \[2, 0\] of parameter w of shape \(4, 3\) into none of its sl",
        ),
        (
            ValueError,
            [slice(0, 3), slice(2, 4)],
            r"puts element \[2, 0\] of parameter w .* into several slices",
        ),
        (ValueError, [], "puts element .* into none"),
        (ValueError, [slice(0, 4, 2), slice(1, 4, 2)], r"gave the slice slice\(0, 4, 2\)"),
        (ValueError, [slice(0, 4), 4], "gave the slice 4 "),
        (ValueError, [slice(0, 4), slice(4, 5)], r"gave the slice slice\(4, 5, None\)"),
        (ValueError, [False, slice(1, 4)], "gave the slice False "),
        (ValueError, ["rows", slice(1, 4)], "gave the slice 'rows' "),
        (ValueError, [np.s_[0, 0, 0]], r"gave the slice \(0, 0, 0\)"),
        (TypeError, 3, "gave 3 for parameter w of shape"),
        (TypeError, slice(0, 4), r"gave slice\(0, 4, None\)"),
    ],
)
def test_what_is_no_layer_is_refused_when_a_parameter_is_given(error, found, said):
    p, q = Parameter(torch.ones(4, 3)), Parameter(torch.ones(2))
    layers = lambda name, p: found if name == "w" else None  # noqa: E731
    with pytest.raises(error, match=rf"^layers\(name, parameter\) {said}"):
        aida.Aida([("w", p)], layers=layers)
    optimizer = aida.Aida([("q", q)], layers=layers)
    with pytest.raises(error, match=said):
        optimizer.add_param_group({"params": [("w", p)]})
    assert len(optimizer.param_groups) == 1


def test_a_wrong_argument_says_what_to_give():
    p = Parameter(torch.ones(4, 3))
    with pytest.raises(
        ValueError, match=r'^layers is "heads"; |^layers is \'heads\'; it must be "tensor", "module" or'
    ):
        aida.Aida([p], layers="heads")
    with pytest.raises(
        ValueError, match=r"^layers=\"module\" needs the names of parameters: give model.named_para"
    ):
        aida.Aida([p], layers="module")
    with pytest.raises(
        ValueError, match=r"^parameter group 0 of Aida has `layers`, which is one argument of the"
    ):
        aida.Aida([{"params": [p], "layers": "module"}])
    with pytest.raises(TypeError) as raised:
        aida.Aida([p], layers=lambda name, p: "a" in name and None)
    assert "it has no name: give model.named_parameters()" in raised.value.__notes__[0]


def test_one_slice_of_all_is_the_tensor():
    p = Parameter(torch.ones(4, 3))
    optimizer = aida.LAida([p], layers=lambda name, p: [slice(0, 4)])
    train(optimizer, range(1, 2))
    assert optimizer.state[p]["exp_avg_var"].shape == ()


def test_a_parameter_that_a_lazy_module_has_yet_to_make_has_no_layer_yet():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LazyLinear(2))
    optimizer = aida.Aida(model.named_parameters(), layers="module")
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert optimizer.layering.members("1") == [model[1].weight, model[1].bias]


def named(prefix=""):
    torch.manual_seed(1)
    return [
        (f"{prefix}{name}", Parameter(torch.randn(shape, dtype=torch.float64)))
        for name, shape in (("0.weight", (4, 2)), ("0.bias", (4,)), ("1.weight", (4, 2)), ("1.bias", (4,)))
    ]


def heads(name, p):
    return [slice(0, 2), slice(2, 4)] if name in ("0.weight", "1.weight") else None


def is_known(optimizer):
    """What the layers are, parameter by parameter."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    return [(optimizer.layering.key(p), [str(x) for x in optimizer.layering.slices(p)]) for p in params]


@pytest.mark.parametrize("layers", ["module", heads], ids=["module", "function"])
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module."])
def test_a_state_with_other_names_leaves_the_layers_as_they_are(layers, prefix):
    """A compiled or wrapped model's checkpoint names its parameters otherwise."""
    train(saved := aida.LAida(named(prefix)), range(2))
    optimizer = aida.LAida(named(), layers=layers)
    before = is_known(optimizer)
    state = saved.state_dict()
    if layers is heads:  # a pooled v belongs to layers
        for i in (0, 2):
            state["state"][i]["exp_avg_var"] = torch.zeros(2, dtype=torch.float64)
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["param_names"][0] == f"{prefix}0.weight"  # as torch loads it
    assert is_known(optimizer) == before
    train(optimizer, [2])
    assert is_known(optimizer) == before
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert is_known(copied) == before
        assert copied.layering.described(copied.param_groups[0]["params"]) == optimizer.state_dict()[
            "param_groups"
        ][0].get("layers", "tensor")


def test_a_state_of_other_layers_is_refused_and_these_stay():
    other = lambda name, p: "all" if name.endswith("bias") else None  # noqa: E731
    train(saved := aida.Aida(named("_orig_mod."), layers=other), range(2))
    train(optimizer := aida.Aida(named(), layers=heads), range(2))
    before, known, values = optimizer.state_dict()["param_groups"], is_known(optimizer), snapshot(optimizer)
    with pytest.raises(ValueError, match="this state was saved with layers="):
        optimizer.load_state_dict(saved.state_dict())
    assert optimizer.state_dict()["param_groups"] == before
    assert is_known(optimizer) == known
    assert_bitwise(snapshot(optimizer), values)


@pytest.mark.parametrize("layers", ["module", heads], ids=["module", "function"])
@pytest.mark.parametrize("lazy", [False, True], ids=["replaced", "lazy"])
def test_what_is_read_before_the_next_step_is_of_the_parameters_of_now(layers, lazy):
    """In a state dict, a copy and the monitor's rows, a parameter that has just come has its layers."""
    made = [(name, Parameter(p.detach().clone())) for name, p in named()]
    params = [torch.nn.UninitializedParameter() if lazy else Parameter(p.detach().clone()) for _, p in made]
    optimizer = aida.LAida([(name, p) for (name, _), p in zip(made, params, strict=True)], layers=layers)
    if lazy:
        for p, (_, wide) in zip(params, made, strict=True):
            p.materialize(wide.shape, dtype=wide.dtype)
    else:
        train(optimizer, range(2))
        replace(optimizer, params[0], made[0][1])
    expected = is_known(aida.LAida(made, layers=layers))
    aida.LAida(made, layers=layers).load_state_dict(through_a_file(optimizer.state_dict()))
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert is_known(copied) == expected
    parts = [str(part) for *_, part, p, _ in named_layers(optimizer, None) if part is not p]
    assert parts == [part for _, slices in expected for part in slices]


@pytest.mark.parametrize("layers", ["module", heads], ids=["module", "function"])
def test_a_parameter_removed_by_hand_leaves_the_others_their_layers(layers):
    optimizer = aida.Aida(named(), layers=layers)
    train(optimizer, range(2))
    before = is_known(optimizer)
    optimizer.state.pop(optimizer.param_groups[0]["params"].pop(0))
    train(optimizer, [2])
    assert is_known(optimizer)[1:] == before[2:]
    assert is_known(copy.deepcopy(optimizer))[1:] == before[2:]
    optimizer.param_groups[0]["params"].append(named()[0][1])
    optimizer.param_groups[0]["params"].append(named()[0][1])
    with pytest.raises(ValueError, match=r"has 5 parameters and 4 names in its param_names.*change both"):
        optimizer.step()
