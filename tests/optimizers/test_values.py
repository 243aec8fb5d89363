"""Values at the door: whatever is given becomes a plain Python value, or is refused in one sentence."""

import copy
import math
from collections import UserList
from decimal import Decimal
from fractions import Fraction

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

import aida
from aida.optimizers.validate import PLAIN, check_group
from helpers.members import MEMBERS, assert_bitwise, parameters, snapshot, through_a_file, train

EVERY = aida.LAida  # the member with every argument
DEFAULTS = EVERY(parameters()).defaults

# How a number may come: from NumPy, as a tensor, from a parser of settings, from a computation.
FORMS = {
    "float": float,
    "float32": np.float32,
    "float64": np.float64,
    "longdouble": np.longdouble,
    "array": np.array,
    "array of one": lambda x: np.array([x]),
    "tensor": lambda x: torch.tensor(x, dtype=torch.float64),
    "tensor of one": lambda x: torch.tensor([x]),
    "parameter": lambda x: torch.nn.Parameter(torch.tensor(x)),
    "Fraction": Fraction,
    "Decimal": Decimal,
}
INTEGERS = {
    "int": int,
    "int32": np.int32,
    "uint64": np.uint64,
    "array": np.array,
    "tensor": torch.tensor,
    "tensor of one": lambda x: torch.tensor([x]),
}
FLAGS = {"bool": bool, "numpy": np.bool_, "array": np.array, "tensor": torch.tensor, "int": int}
NAMES = sorted({*PLAIN, *EVERY.hyperparameters})
NUMBERS = ("lr", "eps", "weight_decay", "xi")
SWITCHES = [name for name, default in DEFAULTS.items() if isinstance(default, bool)] + ["foreach", "fused"]


class Like(UserList):
    """A sequence that is no list, such as omegaconf's ListConfig."""


def hyper(optimizer):
    return {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}


def is_plain(value):
    if type(value) is tuple:
        return all(map(is_plain, value))
    return value is None or type(value) in (float, int, bool, str)


def given_at_every_door(name, value):
    """Optimizers that have got a value in each way there is."""
    yield EVERY(parameters(), **{name: value})
    added = EVERY(parameters()[:1])
    added.add_param_group({"params": parameters()[1:], name: value})
    added.param_groups.reverse()
    yield added
    yield EVERY([{"params": parameters(), name: value}])
    state = EVERY(parameters()).state_dict()
    state["param_groups"][0][name] = value
    (loaded := EVERY(parameters())).load_state_dict(state)
    yield loaded
    (live := EVERY(parameters())).param_groups[0][name] = value
    check_group(live.param_groups[0], EVERY.hyperparameters)
    yield live
    (moved := EVERY(parameters())).param_groups[0][name] = value
    yield copy.deepcopy(moved)


CASES = [
    (n, 0.25, form) for n in NUMBERS for form in FORMS if n != "lr" or "tensor" not in form != "parameter"
]
CASES = [(n, x, f) for n, x, f in CASES if (n, f) != ("lr", "parameter")]


@pytest.mark.parametrize(("name", "x", "form"), CASES)
def test_every_form_of_a_number(name, x, form):
    for optimizer in given_at_every_door(name, FORMS[form](x)):
        assert hyper(optimizer)[name] == x
        assert is_plain(tuple(hyper(optimizer).values()))
        assert through_a_file(optimizer.state_dict())["param_groups"][0][name] == x


@pytest.mark.parametrize("name", ["K", "seed"])
@pytest.mark.parametrize("form", INTEGERS)
def test_every_form_of_an_integer(name, form):
    for optimizer in given_at_every_door(name, INTEGERS[form](3)):
        assert hyper(optimizer)[name] == 3
        assert is_plain(tuple(hyper(optimizer).values()))
        train(optimizer, range(2))


@pytest.mark.parametrize("name", ["maximize", "rectify", "decoupled_weight_decay", "foreach"])
@pytest.mark.parametrize("form", FLAGS)
def test_every_form_of_a_switch(name, form):
    for optimizer in given_at_every_door(name, FLAGS[form](True)):
        assert hyper(optimizer)[name] is True


@pytest.mark.parametrize(
    "betas",
    [
        [0.5, 0.75],
        Like([0.5, 0.75]),
        np.array([0.5, 0.75]),
        torch.tensor([0.5, 0.75]),
        (torch.tensor(0.5), torch.tensor(0.75)),
        (np.float32(0.5), Fraction(3, 4)),
        (0.5, 0.75),
    ],
    ids=lambda x: type(x).__name__ + type(x[0]).__name__,
)
def test_every_form_of_betas(betas):
    for optimizer in given_at_every_door("betas", betas):
        assert hyper(optimizer)["betas"] == (0.5, 0.75)
        assert type(hyper(optimizer)["betas"]) is tuple
        assert is_plain(tuple(hyper(optimizer).values()))
        train(optimizer, range(2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, "bfloat16", "torch.bfloat16", np.str_("bfloat16")])
def test_every_form_of_a_type(dtype):
    """The name alone is kept, which every checkpoint holds; the type itself is what older states have."""
    expected = EVERY(parameters(), state_dtype="bfloat16")
    train(expected, range(2))
    for optimizer in given_at_every_door("state_dtype", dtype):
        assert hyper(optimizer)["state_dtype"] == "bfloat16"
        assert type(hyper(optimizer)["state_dtype"]) is str
        if len(optimizer.param_groups) == 1:
            train(optimizer, range(2))
            assert_bitwise(snapshot(optimizer), snapshot(expected))


def test_a_tensor_lr_stays_the_tensor_that_it_is():
    lr = torch.tensor(0.5)
    optimizer = aida.Aida(parameters(), lr=lr)
    assert optimizer.param_groups[0]["lr"] is lr
    check_group(optimizer.param_groups[0], EVERY.hyperparameters)
    assert optimizer.param_groups[0]["lr"] is lr


WRONG = [
    ("lr", "1e-3", "learning rate: '1e-3'; it must be a finite number of 0 or more, such as 1e-3"),
    ("lr", None, "learning rate: None; it must be"),
    ("lr", True, "learning rate: True; it must be"),
    ("lr", math.inf, "learning rate: inf; it must be a finite"),
    ("lr", 1j, "learning rate: 1j; it must be"),
    ("lr", 10**400, "learning rate: 1000.*; it must be a finite"),
    ("lr", np.array([0.1, 0.2]), r"learning rate: \[0.1, 0.2\]; it must be"),
    ("lr", torch.tensor([0.1, 0.2]), "Tensor lr must be 1-element, but it has 2"),
    ("lr", torch.tensor(math.nan), "learning rate: nan; it must be"),
    ("lr", torch.tensor(1j), "learning rate: 1j; it must be"),
    ("lr", torch.tensor(True), "learning rate: True; it must be"),
    ("betas", 0.9, r"betas: 0.9; it must be two numbers in \[0, 1\), such as \(0.9, 0.999\)"),
    ("betas", (0.9,), r"betas: \(0.9,\); it must be two"),
    ("betas", (0.9, 0.99, 0.999), r"betas: \(0.9, 0.99, 0.999\); it must be two"),
    ("betas", "0.9", "betas: '0.9'; it must be two"),
    ("betas", {0.9, 0.99}, "betas: .*; it must be two"),
    ("betas", None, "betas: None; it must be two"),
    ("betas", (0.9, 1.0), r"beta parameter at index 1: 1.0; it must be in \[0, 1\), as 0.9 is"),
    ("betas", (0.9, np.longdouble(1) - np.longdouble(1e-18)), "index 1: .*; it must be in"),
    ("betas", (math.nan, 0.9), "beta parameter at index 0: nan; it must be in"),
    ("betas", (0.9, math.nan), "beta parameter at index 1: nan; it must be in"),
    ("betas", (-0.1, 0.9), "beta parameter at index 0: -0.1; it must be in"),
    ("betas", ("0.9", 0.99), "beta parameter at index 0: '0.9'; it must be in"),
    ("betas", (None, 0.99), "beta parameter at index 0: None; it must be in"),
    ("betas", (torch.tensor(0.9), 0.99), "betas must be either both floats or both Tensors.*give two floats"),
    ("eps", None, "eps value: None; it must be a finite number above 0, such as 1e-8"),
    ("eps", "1e-8", "eps value: '1e-8'; it must be a finite number above 0"),
    ("eps", 0, "eps value: 0; it must be a finite number above 0"),
    ("eps", (1e-30, 1e-3), "eps value: .*; it must be a finite number above 0"),
    ("weight_decay", math.inf, "weight_decay value: inf; it must be a finite number of 0 or more"),
    ("weight_decay", math.nan, "weight_decay value: nan; it must be"),
    ("K", -1, "Invalid K: -1; it must be an integer from 0 to 64, such as 2"),
    ("K", 10**9, "Invalid K: 1000000000; it must be an integer from 0 to 64"),
    ("K", None, "Invalid K: None; it must be an integer"),
    ("xi", math.inf, "Invalid xi: inf; it must be a finite number above 0"),
    ("layerwise", "mid", "layerwise: 'mid'; it must be 'pre' or 'post'"),
    ("layerwise", None, "layerwise: None; it must be 'pre' or 'post'"),
    ("layerwise", ["pre"], r"layerwise: \['pre'\]; it must be"),
    (
        "state_dtype",
        torch.float16,
        "state_dtype: torch.float16; it must be None, 'float32', 'bfloat16' or 'int8'",
    ),
    ("state_dtype", 16, "state_dtype: 16; it must be None"),
    ("seed", np.int32(-1), "seed: -1; it must be an integer from 0 to 4294967295"),
    ("seed", 2**64, "seed: .*; it must be an integer from 0 to"),
    ("fused", "yes", "fused: 'yes'; it must be True, False or None"),
    ("foreach", 2, "foreach: 2; it must be True, False or None"),
    ("maximize", "False", "maximize: 'False'; it must be True or False"),
    ("maximize", None, "maximize: None; it must be True or False"),
    ("rectify", 0.0, "rectify: 0.0; it must be True or False"),
]


@pytest.mark.parametrize(("name", "value", "message"), WRONG, ids=[f"{n}={v!r}"[:40] for n, v, _ in WRONG])
def test_a_wrong_value_is_refused_at_every_door(name, value, message):
    """In one sentence, with the optimizer as it was; in a live group at its next step."""
    with pytest.raises(ValueError, match=message) as caught:
        EVERY(parameters(), **{name: value})
    assert "\n" not in str(caught.value)
    optimizer = EVERY(parameters()[:1])
    train(optimizer, range(2))
    before, groups = snapshot(optimizer), copy.deepcopy(optimizer.state_dict()["param_groups"])
    with pytest.raises(ValueError, match=message):
        optimizer.add_param_group({"params": parameters()[1:], name: value})
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0].update({"lr": 0.5, name: value})
    for moments in state["state"].values():
        moments["exp_avg"].zero_()
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    assert optimizer.state_dict()["param_groups"] == groups
    assert_bitwise(snapshot(optimizer), before)
    group = optimizer.param_groups[0] = {**optimizer.param_groups[0], "eps": np.float64(1e-8), name: value}
    kept = dict(group)
    with pytest.raises(ValueError, match=message):
        check_group(group, EVERY.hyperparameters)
    with pytest.raises(ValueError, match=message):
        optimizer.step()
    assert all(group[k] is v for k, v in kept.items())
    assert_bitwise(snapshot(optimizer), before)


def test_tensor_betas_with_foreach_are_refused_as_torch_refuses_them():
    betas = (torch.tensor(0.9), torch.tensor(0.99))
    with pytest.raises(
        ValueError, match=r"betas\[0\] as a Tensor is not supported for capturable=False and fo"
    ):
        aida.Aida(parameters(), betas=betas, foreach=True)
    aida.Aida(parameters(), betas=betas, foreach=True, capturable=True)


@pytest.mark.parametrize("cls", MEMBERS)
def test_arguments_are_checked_before_parameters(cls):
    for params in ([], None, ["no tensor"]):
        with pytest.raises(ValueError, match=r"Invalid learning rate: -1\.0"):
            cls(params, lr=-1.0)
    with pytest.raises(TypeError, match="no argument 'zzzz'"):
        cls([], zzzz=1)
    with pytest.raises(RuntimeError, match="cannot be `True` together"):
        cls([], foreach=True, fused=True)


def test_a_users_own_scalars_become_plain_too():
    optimizer = aida.Aida([{"params": parameters(), "layer_id": np.int64(3), "tag": "head", "of": [1]}])
    assert type(optimizer.param_groups[0]["layer_id"]) is int
    assert through_a_file(optimizer.state_dict())["param_groups"][0]["layer_id"] == 3


numbers = (
    st.floats()
    | st.integers()
    | st.booleans()
    | st.none()
    | st.text(max_size=3)
    | st.complex_numbers()
    | st.fractions()
    | st.decimals()
    | arrays.from_dtype(np.dtype("float32"))
    | arrays.from_dtype(np.dtype("float16"))
    | arrays.from_dtype(np.dtype("longdouble"))
    | arrays.from_dtype(np.dtype("int8"))
    | arrays.from_dtype(np.dtype("uint64"))
    | st.sampled_from(
        [np.bool_(True), "pre", "post", "bfloat16", torch.bfloat16, torch.float16, b"x", object(), {}]
    )
)
likely = st.sampled_from([0, 1, 2, 0.5, 1e-8, 0.999, 64, True, False, None]) | numbers
single = (
    likely
    | arrays.arrays(
        st.sampled_from(["float64", "float32", "int64", "bool"]), st.sampled_from([(), (1,), (2,), (0,)])
    )
    | st.floats().map(torch.tensor)
    | st.integers(-3, 70).map(torch.tensor)
    | st.lists(st.floats(width=32), max_size=3).map(torch.tensor)
)
values = single | st.lists(single, max_size=3) | st.tuples(likely, likely)


def refusal(group):
    try:
        check_group(group, EVERY.hyperparameters)
    except (ValueError, RuntimeError) as error:
        return str(error)
    return None


@example({"K": None, "lr": torch.tensor([])})
@given(st.dictionaries(st.sampled_from(NAMES), values, max_size=4))
def test_whatever_is_given_comes_out_plain_or_is_refused_by_name(wrong):
    group = {"params": [], **DEFAULTS, **wrong}
    before = dict(group)
    if (message := refusal(group)) is not None:
        assert all(group[k] is v for k, v in before.items())
        words = {"lr": ("learning rate", "Tensor lr"), "betas": ("beta",)}
        assert any(word in message for name in NAMES for word in words.get(name, (name,)))
        assert "\n" not in message
        assert len(message) < 300
        return
    assert all(is_plain(v) for k, v in group.items() if k not in ("params", "lr"))
    assert is_plain(group["lr"]) or group["lr"] is wrong["lr"]
    lr = float(group["lr"])
    assert 0 <= lr < math.inf
    assert all(0 <= b < 1 for b in group["betas"])
    assert 0 < group["eps"] < math.inf
    assert 0 <= group["weight_decay"] < math.inf
    assert 0 <= group["K"] <= 64
    assert 0 <= group["seed"] < 2**32
    again = dict(group)
    check_group(again, EVERY.hyperparameters)
    assert all(again[k] is group[k] or again[k] == group[k] for k in group)
    loaded = through_a_file(group)
    assert loaded == group
    assert [type(v) for v in loaded.values()] == [type(v) for v in group.values()]


@given(st.data())
def test_what_is_drawn_from_the_range_is_kept(data):
    """The other half: nothing that has a meaning is refused, and its value does not change."""
    real = st.floats(2.0**-99, 0.96875, width=32)
    form = st.sampled_from([float, np.float64, np.float32, np.array, Fraction, Decimal, torch.tensor])
    exact = lambda x: float(x.item() if hasattr(x, "item") else x)  # noqa: E731
    given = {name: data.draw(form)(data.draw(real)) for name in ("eps", "weight_decay", "xi")}
    given["betas"] = [np.float32(data.draw(real)), data.draw(real)]
    given["K"] = data.draw(st.sampled_from([int, np.int8, torch.tensor]))(data.draw(st.integers(0, 64)))
    given["seed"] = data.draw(st.sampled_from([int, np.uint32]))(data.draw(st.integers(0, 2**32 - 1)))
    group = {"params": [], **DEFAULTS, **given}
    check_group(group, EVERY.hyperparameters)
    assert all(group[name] == exact(given[name]) for name in ("eps", "weight_decay", "xi", "K", "seed"))
    assert group["betas"] == tuple(map(float, given["betas"]))


def test_a_value_without_numbers_is_shown_by_its_shape():
    with pytest.raises(ValueError, match=r"^Invalid eps value: \(2,\); it must be"):
        aida.Aida([torch.nn.Parameter(torch.ones(1))], eps=torch.ones(2, device="meta"))


def test_a_group_that_is_none_is_refused_as_by_torch():
    optimizer = aida.Aida([torch.nn.Parameter(torch.ones(1))])
    with pytest.raises(TypeError, match="param_group must be a dict"):
        optimizer.add_param_group([torch.nn.Parameter(torch.ones(1))])
    assert len(optimizer.param_groups) == 1


@pytest.mark.filterwarnings("error")
def test_a_group_that_is_refused_by_a_warning_is_not_there():
    p, q = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = aida.Aida([p])
    with pytest.raises(UserWarning, match="underflows"):
        optimizer.add_param_group({"params": [q], "eps": 1e-45})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [q]})
