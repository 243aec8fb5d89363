"""Nothing that goes wrong in a monitor reaches the training: kinds of harm, moments of time, optimizers."""

import warnings
from contextlib import contextmanager, nullcontext

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

import aida
from aida.monitor import DEFINITIONS, Memory, StepsizeMonitor, layer_stepsizes
from helpers.members import assert_bitwise, parameters, set_gradients, snapshot, train

STEPS = 4
OPTIMIZERS = {
    "Aida": aida.Aida,
    "LAdam": aida.LAdam,
    "post": lambda params: aida.LAida(params, layerwise="post", weight_decay=0.1),
    "Adam": lambda params: torch.optim.Adam(params, amsgrad=True),
    "RMSprop": lambda params: torch.optim.RMSprop(params, momentum=0.9, centered=True),
}


@contextmanager
def data(optimizer, change):
    """The first parameter has other data while the record is taken."""
    p = optimizer.param_groups[0]["params"][0]
    kept = p.data
    p.data = change(kept)
    yield
    p.data = kept


@contextmanager
def state(optimizer, change):
    """Every state is another while the record is taken."""
    kept = dict(optimizer.state)
    for p, of_p in kept.items():
        optimizer.state[p] = change(dict(of_p))
    yield
    optimizer.state.update(kept)


@contextmanager
def group(optimizer, **values):
    groups = optimizer.param_groups
    kept = [dict(each) for each in groups]
    for each in groups:
        each.update(values)
    yield
    for each, old in zip(groups, kept, strict=True):
        each.update(old)


@contextmanager
def no_memory(optimizer):
    p = optimizer.param_groups[0]["params"][0]
    storage, kept = p.untyped_storage(), p.detach().clone()
    size = storage.nbytes()
    storage.resize_(0)
    yield
    storage.resize_(size)
    p.data.copy_(kept)


@contextmanager
def sparse(optimizer):
    p = optimizer.param_groups[0]["params"][0]
    kept, p.grad = p.grad, torch.zeros_like(p).to_sparse()
    yield
    p.grad = kept


@contextmanager
def setting(put, value, get):
    kept = get()
    put(value)
    yield
    put(kept)


@contextmanager
def broken_definition(optimizer):
    names = [f"{cls.__module__}.{cls.__qualname__}" for cls in type(optimizer).__mro__]
    name = next(name for name in names if name in DEFINITIONS)
    kept = DEFINITIONS[name]
    DEFINITIONS[name] = lambda o, group, state: {}["no such key"]
    yield
    DEFINITIONS[name] = kept


def meta(of_p):
    return {k: x.to("meta") if isinstance(x, torch.Tensor) and x.ndim else x for k, x in of_p.items()}


def flag(name):
    monitor_select = {"raises": lambda name, p: 1 / 0, "lazy": lambda name, p: p.no_such_thing}
    return lambda optimizer: setting(
        SWITCH.update, {"select": monitor_select[name]}, lambda: {"select": None}
    )


SWITCH = {"select": None, "sink": None}


def fails(rows):
    raise OSError(28, "No space left on device")


def spoils(rows):
    for row in rows:
        row.clear()


WHILE_RECORDED = {
    "nothing": lambda o: nullcontext(),
    "shape": lambda o: data(o, lambda x: x.flatten()[:3]),
    "empty": lambda o: data(o, lambda x: x.new_empty(0)),
    "float64": lambda o: data(o, lambda x: x.double()),
    "bfloat16": lambda o: data(o, lambda x: x.bfloat16()),
    "complex": lambda o: data(o, lambda x: x.to(torch.complex64)),
    "no memory": no_memory,
    "meta state": lambda o: state(o, meta),
    "no state": lambda o: state(o, lambda of_p: {}),
    "state without v": lambda o: state(o, lambda of_p: {"step": of_p["step"]}),
    "state of others": lambda o: state(o, lambda of_p: {"old_p": 1}),
    "step nan": lambda o: state(o, lambda of_p: of_p | {"step": torch.tensor(torch.nan)}),
    "step inf": lambda o: state(o, lambda of_p: of_p | {"step": torch.inf}),
    "betas 1": lambda o: group(o, betas=(1.0, 1.0)),
    "no betas": lambda o: group(o, betas=None),
    "eps 0": lambda o: group(o, eps=0.0),
    "lr text": lambda o: group(o, lr="1e-3"),
    "sparse gradient": sparse,
    "numpy raises": lambda o: setting(
        lambda x: np.seterr(**x), dict.fromkeys(np.geterr(), "raise"), np.geterr
    ),
    "meta by default": lambda o: setting(torch.set_default_device, "meta", lambda: torch.empty(0).device),
    "float64 by default": lambda o: setting(
        torch.set_default_dtype, torch.float64, torch.get_default_dtype
    ),
    "deterministic": lambda o: setting(
        torch.use_deterministic_algorithms, True, torch.are_deterministic_algorithms_enabled
    ),
    "definition raises": broken_definition,
    "select raises": flag("raises"),
    "select misses": flag("lazy"),
    "sink raises": lambda o: setting(SWITCH.update, {"sink": fails}, lambda: {"sink": None}),
    "sink spoils": lambda o: setting(SWITCH.update, {"sink": spoils}, lambda: {"sink": None}),
}  # fmt: skip
GRADIENTS = {"1e30": 1e30, "1e-30": 1e-30, "inf": torch.inf, "nan": torch.nan, "none": None}


class Switched:
    def write(self, rows):
        if SWITCH["sink"]:
            SWITCH["sink"](rows)


def trained(make, harms, watched):
    """(what training left, the rows, the warnings) with the harm of each moment, and none in the others."""
    optimizer = make(parameters())
    params = optimizer.param_groups[0]["params"]
    around = []
    optimizer.register_step_post_hook(lambda o, a, k: around[-1].__enter__())  # before the monitor's own
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        monitor = None
        if watched:
            select = lambda name, p: SWITCH["select"](name, p) if SWITCH["select"] else True  # noqa: E731
            monitor = StepsizeMonitor(optimizer, every=1, sinks=[Switched(), Memory()], select=select)
        for t in range(STEPS):
            kind = harms.get(t, "nothing")
            if kind == "none":
                optimizer.zero_grad()
            else:
                set_gradients(params, t)
                for p in params if kind in GRADIENTS else ():
                    p.grad.fill_(GRADIENTS[kind])
            around.append(WHILE_RECORDED.get(kind, WHILE_RECORDED["nothing"])(optimizer))
            optimizer.step()
            around[-1].__exit__(None, None, None)
        if monitor:
            monitor.close()
    said = [
        str(w.message) for w in caught if "StepsizeMonitor" in str(w.message) or "record" in str(w.message)
    ]
    return snapshot(optimizer), monitor.rows if monitor else [], said


def check(make, harms):
    plain, _, _ = trained(make, harms, watched=False)
    left, rows, said = trained(make, harms, watched=True)
    assert_bitwise([torch.nan_to_num(x) for x in left], [torch.nan_to_num(x) for x in plain])
    assert [x.isnan().sum() for x in left] == [x.isnan().sum() for x in plain]
    assert len(said) == len(set(said)), said
    assert len(said) <= 12, said  # once for each layer and kind of error, not at each step
    if harms.get(STEPS - 1, "nothing") == "nothing":
        assert len([row for row in rows if row["kind"] == "spread"]) >= 1
        assert rows[-1]["layers"] == 3
    return rows, said


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("harm", [*WHILE_RECORDED, *GRADIENTS])
def test_training_goes_on_bitwise_as_without_a_monitor(harm, make):
    for moments in ([0], [2], range(STEPS)):
        check(make, dict.fromkeys(moments, harm))


@given(
    harms=st.dictionaries(st.integers(0, STEPS - 1), st.sampled_from([*WHILE_RECORDED, *GRADIENTS])),
    make=st.sampled_from(list(OPTIMIZERS.values())),
)
@settings(max_examples=150)
def test_any_harms_at_any_moments(harms, make):
    check(make, harms)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("shape", "dropped layer 0 from the record of step 3 (ValueError: the parameter has shape (3,)"),
        ("no memory", "dropped layer 0 from the record of step 3 (ValueError: the memory of its parameter"),
        ("meta state", "its m (4, 3) on meta: one of them was replaced"),
        ("select raises", "dropped layer 0 from the record of step 3 (ZeroDivisionError"),
        ("sink raises", "Switched could not write the record of step 3 (OSError: [Errno 28] No space left"),
    ],
)
def test_what_is_dropped_is_said_and_the_rest_is_recorded(harm, said):
    rows, warned = check(aida.Aida, {2: harm})
    assert any(said in each for each in warned), warned
    assert {row["step"] for row in rows if row["kind"] == "spread"} >= {1, 2, 4}
    if harm == "shape":
        assert [row["parameter"] for row in rows if row["step"] == 3 and row["kind"] == "stepsize"] == [
            "1",
            "2",
        ]


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("size", [1e30, 1e19, torch.inf, torch.nan, 0.0])
def test_rows_of_any_gradient_are_numbers_that_say_so(make, size):
    """Not a number where elements are none, else within what there is."""
    optimizer = make(parameters(dtype=torch.float64))
    for p in optimizer.param_groups[0]["params"]:
        p.grad = torch.full_like(p, size)
    with np.errstate(all="ignore"):
        optimizer.step()
    for row in layer_stepsizes(optimizer):
        assert all(isinstance(x, int | float | str | dict | None) for x in row.values())
        percentiles = [row[key] for key in ("p05", "p25", "p50", "p75", "p95")]
        if np.isnan(row["mean"]):
            assert np.isnan(percentiles).all()
            assert row["histogram"]["counts"] == []
        else:
            pooled_at_zero = row["mean"] == 0 and row["std"] == 0
            assert sum(row["histogram"]["counts"]) in {row["numel"], 0 if pooled_at_zero else row["numel"]}
            assert all(row["min"] <= x <= row["max"] for x in percentiles)


def test_elements_that_are_not_numbers_are_in_no_bin():
    p = nn.Parameter(torch.ones(8))
    optimizer = aida.AdaBelief([p])
    p.grad = torch.tensor([1.0, torch.nan] * 4)
    optimizer.step()
    (row,) = layer_stepsizes(optimizer)
    assert sum(row["histogram"]["counts"]) == 4
    assert np.isnan([row["mean"], row["p05"], row["p95"], row["capped"]]).all()


@pytest.mark.parametrize("cls", [aida.Aida, aida.LAdam])
def test_states_made_before_the_first_step_are_no_record(cls):
    model = nn.Linear(4, 3)
    optimizer = cls(model.parameters())
    with StepsizeMonitor(optimizer, model, every=2) as monitor:
        get_optimizer_state_dict(model, optimizer)
        assert layer_stepsizes(optimizer) == monitor.rows == []
        train(optimizer, range(3))
    assert [row["step"] for row in monitor.rows if row["kind"] == "spread"] == [1, 2]


def test_adagrad_has_a_state_before_its_first_step():
    optimizer = torch.optim.Adagrad(parameters(), lr_decay=0.1)
    assert layer_stepsizes(optimizer) == []


TYPES = (torch.float32, torch.float64, torch.float32)


@pytest.mark.parametrize(
    "rule",
    [
        (1, 1),
        (0.5, 2.0),
        staticmethod(lambda gg, gm, mm: (gg / (gg + mm), 1)),
        staticmethod(lambda dd, gg, K, xi: (gg / (gg + dd + xi), 1.0)),
        staticmethod(lambda gg, gm, mm: (gg / gg.mean(), (mm / mm.max()).mean())),
        staticmethod(lambda gg, gm, mm: (torch.where(gm > 0, 1.0, 0.5), torch.ones_like(mm))),
        staticmethod(lambda gg, gm, mm: (gg.roll(1) / (gg + gg.roll(1)), 1.0)),
    ],
)
def test_a_rule_of_any_form_gives_its_residual(rule):
    """The rule is called as a step calls it: once for all layers of a group and of one type."""
    params = [nn.Parameter(torch.full((3,), x, dtype=d)) for x, d in zip((1, 2, 3), TYPES, strict=True)]
    cls = type("Own", (aida.Aida,), {"rule": rule, "mixes_layers": True})
    optimizer = cls([{"params": params}, {"params": [nn.Parameter(torch.ones(2))]}])
    train(optimizer, range(2))
    rows = layer_stepsizes(optimizer)
    found = [(p.grad.double(), optimizer.state[p]["exp_avg"].double()) for p in params]
    for of_type in ((0, 2), (1,)):
        pairs = [found[i] for i in of_type]
        gram = {"gg": [(g * g).sum() for g, m in pairs], "gm": [(g * m).sum() for g, m in pairs],
                "mm": [(m * m).sum() for g, m in pairs], "dd": [((m - g) ** 2).sum() for g, m in pairs],
                }  # fmt: skip
        alpha, beta = cls.rule if isinstance(cls.rule, tuple) else cls.rule(
            *(torch.stack(gram[name]) for name in cls.sums), **{n: cls.own[n] for n in cls.rule_arguments}
        )  # fmt: skip
        alpha, beta = (torch.as_tensor(c).expand(len(pairs)) for c in (alpha, beta))
        for i, (g, m), a, b in zip(of_type, pairs, alpha, beta, strict=True):
            assert rows[i]["residual"] == pytest.approx(((b * m - a * g).norm() / m.norm()).item(), rel=1e-6)
    some = layer_stepsizes(optimizer, select=lambda name, p: name != "1")
    assert [row["residual"] is None for row in some] == [callable(cls.rule)] * 3
