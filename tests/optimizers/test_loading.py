"""Loading: a state of one's own in every way that torch has, another optimizer's refused by name."""

import contextlib
import copy
import io
import itertools
import re

import pytest
import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import aida
from helpers.members import MEMBERS, OWN, assert_bitwise, parameters, snapshot, train


def of_torch(cls, **arguments):
    return lambda params: cls(params, lr=0.1, **arguments)


def of_package(module, name="AdaBelief"):
    def build(params):
        with contextlib.redirect_stdout(io.StringIO()):
            return getattr(pytest.importorskip(module), name)(params, lr=0.1)

    return build


FOREIGN = {
    "Adam": (of_torch(torch.optim.Adam), "torch's Adam, AdamW"),
    "AdamW": (of_torch(torch.optim.AdamW), "torch's Adam, AdamW"),
    "NAdam": (of_torch(torch.optim.NAdam), "torch's Adam, AdamW or a like one"),
    "RAdam": (of_torch(torch.optim.RAdam), "torch's Adam, AdamW or a like one"),
    "Adamax": (of_torch(torch.optim.Adamax), "torch's Adamax"),
    "SGD": (of_torch(torch.optim.SGD, momentum=0.9), "SGD with momentum"),
    "RMSprop": (of_torch(torch.optim.RMSprop), "torch's RMSprop"),
    "Adagrad": (of_torch(torch.optim.Adagrad), "torch's Adagrad"),
    "pytorch_optimizer": (
        of_package("pytorch_optimizer"),
        "pytorch_optimizer .its groups have 'weight_decouple'",
    ),
    "pytorch_optimizer's Aida": (of_package("pytorch_optimizer", "Aida"), "pytorch_optimizer"),
    "timm": (of_package("timm.optim.adabelief"), "timm's AdaBelief .its groups have 'degenerated_to_sgd'"),
    "adabelief-pytorch": (of_package("adabelief_pytorch"), "adabelief-pytorch .its groups have 'buffer'"),
}


def refused(optimizer, state, message):
    """What is wrong, in one sentence, and the optimizer as it was."""
    before, groups = snapshot(optimizer), copy.deepcopy(optimizer.state_dict()["param_groups"])
    given = copy.deepcopy(state)
    with pytest.raises(ValueError, match=message) as caught:
        optimizer.load_state_dict(state)
    text = str(caught.value)
    assert "\n" not in text
    assert f"not by {type(optimizer).__name__}" in text
    assert "load the model alone" in text
    assert optimizer.state_dict()["param_groups"] == groups
    assert_bitwise(snapshot(optimizer), before)
    assert str(state) == str(given)


@pytest.mark.parametrize("cls", MEMBERS)
@pytest.mark.parametrize("source", FOREIGN)
@pytest.mark.parametrize("stepped", [False, True], ids=["new", "stepped"])
def test_another_optimizers_state_is_refused_by_name(cls, source, stepped):
    build, name = FOREIGN[source]
    train(foreign := build(parameters()), range(2))
    optimizer = cls(parameters())
    if stepped:
        train(optimizer, range(2))
    refused(optimizer, foreign.state_dict(), f"this state was saved by .*{name}")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("run/last.pt", "not 'run/last.pt'; read a file with torch.load first"),
        ([1], "not [1]; read a file"),
        ({}, "this one has nothing and no 'state' or 'param_groups'; of a checkpoint give"),
        ({"model": 1, "optimizer": 2}, "this one has 'model', 'optimizer' and no 'state' or 'param_groups'"),
        (dict.fromkeys("abcde"), "this one has 'a', 'b', 'c', 'd', … and no"),
        ({"param_groups": []}, "this one has 'param_groups' and no 'state';"),
    ],
)
def test_what_is_no_state_dict_is_refused(given, told):
    train(optimizer := aida.Aida(parameters()), range(2))
    before = snapshot(optimizer)
    with pytest.raises(TypeError, match=r"^Aida\.load_state_dict takes .*" + re.escape(told)):
        optimizer.load_state_dict(given)
    assert_bitwise(snapshot(optimizer), before)


def kind(cls, own):
    layerwise = cls(parameters(), **own).defaults.get("layerwise")
    return "K" in cls.own, layerwise


SETTINGS = [
    (cls, own) for cls, settings in OWN.items() for own in settings if own.get("K", 2) == 2 or "post" in own
]
DIFFERENT = [
    (saved, loaded)
    for saved, loaded in itertools.permutations([(c, s[0]) for c, s in OWN.items()], 2)
    if kind(*saved) != kind(*loaded)
]


@pytest.mark.parametrize(("saved", "loaded"), DIFFERENT, ids=lambda x: x[0].__name__)
def test_another_members_state_is_refused(saved, loaded):
    """Where v has another form, or the rule other arguments; states once did not say who saved them."""
    train(source := saved[0](parameters(), **saved[1]), range(2))
    state = source.state_dict()
    for group in state["param_groups"]:
        del group["saved_by"]
    for optimizer in (loaded[0](parameters(), **loaded[1]), loaded[0](parameters(), **loaded[1])):
        refused(optimizer, state, "saved by (an optimizer with|a member)")
        train(optimizer, range(2))


@pytest.mark.parametrize(("saved", "loaded"), [*itertools.permutations(OWN, 2)], ids=lambda cls: cls.__name__)
def test_every_other_members_state_is_refused_by_its_name(saved, loaded):
    """AdamPlus's and AdaBelief's have the same form."""
    train(source := saved(parameters(), **OWN[saved][0]), range(2))
    optimizer = loaded(parameters(), **OWN[loaded][0])
    refused(optimizer, source.state_dict(), f"saved by {saved.__name__}, not by {loaded.__name__}")
    refused(loaded(parameters()), saved(parameters()).state_dict(), f"saved by {saved.__name__}, not by")


class Plain(aida.AdaBelief):
    """Without a rule of its own."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, lr=lr)


class Ruled(aida.AdaBelief):
    rule = (0.5, 1.0)


def test_a_subclass_is_its_member_unless_it_has_a_rule_of_its_own():
    for saved, loaded in itertools.permutations((Plain, aida.AdaBelief), 2):
        train(source := saved(parameters()), range(2))
        params = [torch.nn.Parameter(p.detach().clone()) for p in source.param_groups[0]["params"]]
        (optimizer := loaded(params)).load_state_dict(source.state_dict())
        for o in (source, optimizer):
            train(o, range(2, 4))
        assert_bitwise(snapshot(optimizer), snapshot(source))
    for saved, loaded in itertools.permutations((Ruled, aida.AdaBelief), 2):
        train(source := saved(parameters()), range(2))
        refused(
            loaded(parameters()), source.state_dict(), f"saved by {saved.__name__}, not by {loaded.__name__}"
        )


def test_the_members_name_is_in_what_is_saved_alone():
    train(source := aida.AdaBelief(parameters()), range(2))
    (loaded := aida.AdaBelief(parameters())).load_state_dict(source.state_dict())
    for optimizer in (source, loaded, copy.deepcopy(source)):
        assert "saved_by" not in optimizer.param_groups[0]
        assert optimizer.state_dict()["param_groups"][0]["saved_by"] == "AdaBelief"


@pytest.mark.parametrize("options", [{}, {"full_state_dict": True}, {"cpu_offload": True}], ids=str)
def test_another_members_state_is_refused_through_distributed_checkpoints(options):
    one, other = model(), model()
    train(source := aida.AdamPlus(one.parameters()), range(2))
    state = get_optimizer_state_dict(one, source, options=StateDictOptions(**options))
    with pytest.raises(ValueError, match="saved by AdamPlus, not by AdaBelief"):
        set_optimizer_state_dict(
            other, aida.AdaBelief(other.parameters()), state, options=StateDictOptions(**options)
        )


@pytest.mark.parametrize("cls", [aida.LAdam, aida.LAdaBelief, aida.LAida])
@pytest.mark.parametrize("layerwise", ["pre", "post"])
def test_a_v_of_another_form_is_refused_though_its_group_looks_right(cls, layerwise):
    other = {"pre": "post", "post": "pre"}[layerwise]
    train(source := cls(parameters(), layerwise=other), range(2))
    state = source.state_dict()
    state["param_groups"][0]["layerwise"] = layerwise
    refused(cls(parameters(), layerwise=layerwise), state, "its v (has the shape|is one number)")
    state["param_groups"][0]["layerwise"] = other  # the group is loaded too, so that this is a whole state
    (loaded := cls(parameters(), layerwise=layerwise)).load_state_dict(state)
    for o in (source, loaded):
        train(o, range(2, 4))
    assert loaded.param_groups[0]["layerwise"] == other


def test_a_scalar_layer_has_one_v_in_either_form():
    train(source := aida.Aida(parameters([()])), range(2))
    aida.Aida(parameters([()])).load_state_dict(source.state_dict())


@pytest.mark.parametrize("missing", ["step", "exp_avg", "exp_avg_var"])
def test_a_state_that_lacks_a_part_is_refused(missing):
    train(source := aida.Aida(parameters()), range(2))
    state = source.state_dict()
    del state["state"][1][missing]
    refused(aida.Aida(parameters()), state, f"it has .* and no '{missing}'")


def test_a_state_with_more_in_it_is_kept():
    """Wrappers keep their own tensors beside the moments."""
    train(source := aida.Aida(parameters()), range(2))
    for p, of_p in source.state.items():
        of_p["slow"] = p.detach().clone()
    (loaded := aida.Aida(parameters())).load_state_dict(source.state_dict())
    assert all("slow" in of_p for of_p in loaded.state.values())


def test_a_load_leaves_it_to_backward_who_steps():
    """step() beside release_gradients would step every layer a second time."""
    net = model()
    optimizer = aida.Aida(net.parameters())
    aida.release_gradients(optimizer, net)
    net(torch.ones(1, 3)).sum().backward()
    optimizer.load_state_dict(optimizer.state_dict())
    with pytest.raises(RuntimeError, match="release_gradients steps every layer"):
        optimizer.step()


@pytest.mark.parametrize("lr", [0.1, torch.tensor(0.1)], ids=["number", "tensor"])
@pytest.mark.parametrize(
    "arguments", [{}, {"state_dtype": "bfloat16"}, {"state_dtype": "int8"}, {"capturable": True}], ids=str
)
@pytest.mark.parametrize("foreach", [False, True, None])
@pytest.mark.parametrize("cls", [aida.Aida, aida.LAdam])
def test_a_load_in_inference_mode_leaves_tensors_that_can_be_stepped(cls, foreach, arguments, lr):
    train(source := cls(parameters(), lr=lr, **arguments), range(2))
    (expected := cls(parameters(), foreach=foreach)).load_state_dict(source.state_dict())
    loaded = cls(parameters(), foreach=foreach)
    with torch.inference_mode():
        state = {**source.state_dict()}
        state["state"] = {k: {n: x.clone() for n, x in s.items()} for k, s in state["state"].items()}
        assert state["state"][0]["exp_avg"].is_inference()
        loaded.load_state_dict(state)
    assert not any(x.is_inference() for of_p in loaded.state.values() for x in of_p.values())
    for o in (expected, loaded):
        o.param_groups[0]["foreach"] = foreach
        train(o, range(2, 4))
    assert_bitwise(snapshot(loaded), snapshot(expected))


# Every argument's values, and a user's own keys, through every form of torch's distributed checkpoints.
VALUES = [
    {},
    {"lr": torch.tensor(0.1)},
    {"betas": [0.5, 0.9]},
    {"eps": 1e-6, "weight_decay": 0.1, "decoupled_weight_decay": True},
    {"rectify": True},
    {"state_dtype": "bfloat16"},
    {"state_dtype": "int8"},
    {"state_dtype": torch.bfloat16, "seed": 7},
    {"state_dtype": torch.float32},
    {"stochastic_rounding": True},
    {"maximize": True},
    {"foreach": True},
    {"foreach": False},
    {"fused": True},
    {"fused": False},
    {"capturable": True},
    {"K": 3, "xi": 1e-6},
    {"layerwise": "post"},
    {"layer_id": 3, "tag": "head", "is_last_layer": True},
]
OPTIONS = [
    {},
    {"cpu_offload": True},
    {"full_state_dict": True},
    {"cpu_offload": True, "full_state_dict": True},
    {"flatten_optimizer_state_dict": True},
    {"cpu_offload": True, "flatten_optimizer_state_dict": True},  # full and flat fails with torch's AdamW too
]


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(o) or "plain")
@pytest.mark.parametrize("values", VALUES, ids=str)
@pytest.mark.filterwarnings("ignore:.*does not use it")
def test_every_value_goes_through_torchs_distributed_checkpoints(values, options):
    own = {k: v for k, v in values.items() if k in ("layer_id", "tag", "is_last_layer")}
    arguments = {k: v for k, v in values.items() if k not in own}
    before, after = model(), model()

    def build(net):
        return aida.LAida([{"params": net.parameters(), **own}], **arguments)

    train(source := build(before), range(2))
    state = get_optimizer_state_dict(before, source, options=StateDictOptions(**options))
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    after.load_state_dict(before.state_dict())
    loaded = build(after)
    set_optimizer_state_dict(after, loaded, state, options=StateDictOptions(**options))
    groups = [{k: v for k, v in o.param_groups[0].items() if k != "params"} for o in (source, loaded)]
    assert groups[0] == groups[1]
    for o in (source, loaded):
        train(o, range(2, 4))
    assert_bitwise(snapshot(loaded), snapshot(source))


@pytest.mark.parametrize("old", [torch.bfloat16, torch.float32, None])
def test_a_type_in_an_older_state_is_read(old):
    train(source := aida.Aida(parameters(), state_dtype=old), range(2))
    state = source.state_dict()
    state["param_groups"][0]["state_dtype"] = old
    (loaded := aida.Aida(parameters())).load_state_dict(state)
    name = old and re.sub("torch.", "", str(old))
    assert loaded.param_groups[0]["state_dtype"] == name == source.param_groups[0]["state_dtype"]


@pytest.mark.parametrize(("fused", "foreach"), [(None, None), (False, None), (None, True), (None, False)])
def test_amp_scaling_is_left_to_the_scaler_unless_fused_is_asked_for(fused, foreach):
    assert not aida.Aida(parameters(), fused=fused, foreach=foreach)._step_supports_amp_scaling


def test_a_step_that_makes_the_state_keeps_what_is_there():
    """Checkpoint tools take it with lr 0 and gradients of zero, after a user has put a state there."""
    p, q = parameters([(3,), (2,)])
    optimizer = aida.Aida([p, q], lr=0.0)
    optimizer.state[p] = own = {name: torch.ones(3) for name in ("exp_avg", "exp_avg_var")}
    own["step"] = torch.tensor(7.0)
    p.grad, q.grad = torch.zeros(3), torch.zeros(2)
    optimizer.step()
    assert optimizer.state[p] is own
    assert float(own["step"]) == 7
    assert own["exp_avg"].tolist() == own["exp_avg_var"].tolist() == [1, 1, 1]
    assert float(optimizer.state[q]["step"]) == 0


class TestHooks:
    """What a hook after a load does to the state stays, as it does with torch's."""

    @staticmethod
    def loaded(make, hook):
        model = torch.nn.Linear(3, 2)
        first = make(model.parameters())
        model(torch.ones(1, 3)).sum().backward()
        first.step()
        second = make(model.parameters())
        second.register_load_state_dict_post_hook(hook)
        second.load_state_dict(first.state_dict())
        return model, second

    @pytest.mark.parametrize("make", [torch.optim.AdamW, aida.Aida, aida.LAdam])
    def test_moments_that_it_resets_stay_reset(self, make):
        def reset(optimizer):
            for of_p in optimizer.state.values():
                of_p["exp_avg"] = torch.zeros_like(of_p["exp_avg"])

        model, optimizer = self.loaded(make, reset)
        assert not any(optimizer.state[p]["exp_avg"].any() for p in model.parameters())

    @pytest.mark.parametrize("make", [torch.optim.AdamW, aida.Aida])
    def test_a_state_that_it_drops_begins_anew(self, make):
        model, optimizer = self.loaded(make, lambda o: o.state.pop(next(iter(o.state))))
        optimizer.step()
        assert [float(optimizer.state[p]["step"]) for p in model.parameters()] == [1.0, 2.0]

    @pytest.mark.parametrize("state_dtype", [None, "bfloat16", "int8"])
    def test_it_sees_moments_in_the_types_that_they_keep(self, state_dtype):
        model = torch.nn.Linear(3, 2).bfloat16()
        first, second = (aida.Aida(model.parameters(), state_dtype=state_dtype) for _ in range(2))
        model(torch.ones(1, 3, dtype=torch.bfloat16)).sum().backward()
        first.step()
        types = []
        second.register_load_state_dict_post_hook(
            lambda o: types.extend((s["exp_avg"].dtype, s["exp_avg_var"].dtype) for s in o.state.values())
        )
        second.load_state_dict(first.state_dict())
        kept = [(of_p["exp_avg"].dtype, of_p["exp_avg_var"].dtype) for of_p in first.state.values()]
        assert types == kept

    def test_an_error_in_it_leaves_all_as_it_was(self):
        model = torch.nn.Linear(3, 2)
        optimizer = aida.Aida(model.parameters())
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        saved = optimizer.state_dict()
        optimizer.step()

        def fails(_):
            raise KeyError("of the hook")

        optimizer.register_load_state_dict_post_hook(fails)
        with pytest.raises(KeyError, match="of the hook"):
            optimizer.load_state_dict(saved)
        assert {float(of_p["step"]) for of_p in optimizer.state.values()} == {2.0}
