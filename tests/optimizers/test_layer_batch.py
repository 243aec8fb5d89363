"""One cache of a step's layers, against an optimizer that gathers afresh at every step, to the bit.

AIDA_FUZZ_EXAMPLES: how many histories are tried with each member and backend (`make fuzz`: 200).
"""

import copy
import io
import os
from contextlib import suppress

import hypothesis
import pytest
import torch
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from torch.nn import Parameter

import aida
from aida.backends import tensors
from aida.backends.tensors import counts
from aida.optimizers import layer_cache
from aida.optimizers.layer_batch import gather
from helpers.backends import BACKENDS, every_backend
from helpers.edits import EDITS, PLACES, edit, everything, replace, step_alike
from helpers.members import MEMBERS, OWN, parameters, set_gradients, train

EXAMPLES = int(os.environ.get("AIDA_FUZZ_EXAMPLES", "3"))
SHAPES = [(3, 4), (5,), (2, 3, 2, 2), (), (0,)]
TYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
numbers = st.integers(0, 7)
OPTIONS = {
    "lr": st.sampled_from([1e-3, 0.1, 0.0]),
    "lr tensor": st.sampled_from([1e-3, 0.1]),
    "betas": st.sampled_from([(0.9, 0.999), (0.5, 0.6), (0.0, 0.0)]),
    "eps": st.sampled_from([1e-8, 1e-3]),
    "weight_decay": st.sampled_from([0.0, 0.3]),
    "decoupled_weight_decay": st.booleans(),
    "maximize": st.booleans(),
    "rectify": st.booleans(),
    "capturable": st.booleans(),
    "stochastic_rounding": st.booleans(),
    "state_dtype": st.sampled_from([None, torch.bfloat16, "int8"]),
    "seed": st.integers(0, 5),
    "layerwise": st.sampled_from(["pre", "post"]),
    "K": st.integers(0, 3),
    "backend": st.sampled_from(list(BACKENDS.values())),
}


def rows(name, p):
    """Slices that are contiguous where p is."""
    return [slice(0, 1), slice(1, None)] if p.dim() and len(p) > 1 else None


def columns(name, p):
    """And slices that are not."""
    return [(..., slice(0, 2)), (..., slice(2, None))] if p.dim() and p.shape[-1] > 2 and p.numel() else None


def together(name, p):
    """Layers of several tensors, beside slices and tensors as they are."""
    return rows(name, p) if p.dim() == 4 else f"of {p.dim()} dimensions" if p.dim() < 3 else None


choices = st.sampled_from(sorted(OPTIONS)).flatmap(lambda name: st.tuples(st.just(name), OPTIONS[name]))


def normal(shape, seed, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


class Twins(RuleBasedStateMachine):
    """Whatever is done to one optimizer is done to the other, whose cache is cleared before each step."""

    cls = OWN  # both set by the test
    arguments = {}  # noqa: RUF012

    @initialize(option=choices, seed=numbers, layers=st.sampled_from(["tensor", rows, columns, together]))
    def begin(self, option, seed, layers):
        self.seed = seed
        self.twins = []
        for _ in range(2):
            params = [Parameter(normal(shape, i)) for i, shape in enumerate(SHAPES[:3])]
            groups = [{"params": params[:2]}, {"params": params[2:]}]
            self.twins.append(self.cls(groups, layers=layers, **self.arguments))
        self.gradients(255)
        self.step()

    def each(self):
        """Both optimizers with their parameters."""
        for optimizer in self.twins:
            yield optimizer, [p for group in optimizer.param_groups for p in group["params"]]

    def chosen(self, i):
        for optimizer, params in self.each():
            yield optimizer, params[i % len(params)]

    @rule(which=st.integers(0, 255))
    def gradients(self, which):
        """New ones for some; the others keep theirs or have none."""
        self.seed += 1
        for _, params in self.each():
            for i, p in enumerate(params):
                if which >> i & 1 and p.requires_grad:
                    with suppress(RuntimeError):  # of a parameter on meta
                        p.grad = normal(p.shape, 100 * self.seed + i, p.dtype)

    @rule(set_to_none=st.booleans())
    def zero_grad(self, set_to_none):
        for optimizer, _ in self.each():
            optimizer.zero_grad(set_to_none)

    @rule(i=numbers)
    def freeze_or_unfreeze(self, i):
        for _, p in self.chosen(i):
            with suppress(RuntimeError):  # of integers
                p.requires_grad_(not p.requires_grad)

    @rule(i=numbers)
    def lose_gradient(self, i):
        for _, p in self.chosen(i):
            p.grad = None

    @rule(i=numbers, shape=st.sampled_from(SHAPES), with_state=st.booleans())
    def replace_parameter(self, i, shape, with_state):
        self.seed += 1
        for optimizer, p in self.chosen(i):
            replace(optimizer, p, Parameter(normal(shape, self.seed)), with_state)

    @rule(
        i=numbers,
        name=st.sampled_from(
            ["all", "dict", "exp_avg", "exp_avg_var", "exp_avg_scale", "step", "copies", "number"]
        ),
    )
    def edit_state(self, i, name):
        for optimizer, p in self.chosen(i):
            of_p = optimizer.state.get(p, {})
            if name == "all":
                optimizer.state.pop(p, None)
            elif name == "dict" and of_p:
                optimizer.state[p] = dict(of_p)
            elif name == "copies":
                of_p.update({k: x.clone() if isinstance(x, torch.Tensor) else x for k, x in of_p.items()})
            elif name == "number" and of_p:
                of_p["exp_avg"] = 1.0
            else:
                of_p.pop(name, None)

    @rule(shape=st.sampled_from(SHAPES), dtype=st.sampled_from(TYPES))
    def add_group(self, shape, dtype):
        if len(self.twins[0].param_groups) < 5:
            self.seed += 1
            for optimizer, _ in self.each():
                optimizer.add_param_group(
                    {"params": [Parameter(normal(shape, self.seed, dtype))], "lr": 0.01}
                )

    @rule(i=numbers, j=numbers)
    def share_memory(self, i, j):
        for (_, p), (_, q) in zip(self.chosen(i), list(self.chosen(j)), strict=True):
            with suppress(RuntimeError):  # of other kinds of tensors
                p.data = q.data

    @rule(i=numbers, j=numbers)
    def stand_twice(self, i, j):
        for optimizer, p in self.chosen(i):
            group = optimizer.param_groups[j % len(optimizer.param_groups)]
            group["params"] = [*group["params"], p]

    @rule(dtype=st.sampled_from(TYPES), states=st.booleans())
    def change_types(self, dtype, states):
        for optimizer, params in self.each():
            for p in params:
                p.data = p.data.to(dtype)
                g, p.grad = p.grad, None
                if g is not None and g.shape == p.shape:
                    p.grad = g.to(dtype)
                if states and isinstance(m := optimizer.state.get(p, {}).get("exp_avg"), torch.Tensor):
                    m.data = m.data.to(dtype)

    @rule(
        i=numbers,
        name=st.sampled_from(sorted(EDITS)),
        where=st.sampled_from([*PLACES, "pgmv"]),
        anew=st.booleans(),
    )
    def edit_memory(self, i, name, where, anew):
        for optimizer, p in self.chosen(i):
            edit(optimizer, p, name, where[0] if where in PLACES else where, anew)

    @rule(i=numbers, option=choices)
    def change_option(self, i, option):
        name, value = option
        for optimizer, _ in self.each():
            group = optimizer.param_groups[i % len(optimizer.param_groups)]
            if name == "backend":
                group.update({"foreach": None, "fused": None, **value.arguments})
            elif name == "lr tensor":
                group["lr"] = torch.tensor(value)
            elif name in group:
                group[name] = value

    @rule(how=st.sampled_from(["load", "deepcopy", "save"]))
    def copy(self, how):
        if any(
            x is None or not isinstance(x, torch.Tensor)
            for o in self.twins
            for s in o.state.values()
            for x in s.values()
        ):
            return
        try:
            if how == "load":
                for optimizer in self.twins:
                    optimizer.load_state_dict(optimizer.state_dict())
            else:
                self.twins = [copied(optimizer, how) for optimizer in self.twins]
        except (RuntimeError, NotImplementedError, ValueError):
            self.mend()  # not every tensor can be copied

    @rule()
    def step(self):
        if step_alike(*self.twins):
            self.mend()

    @rule()
    def two_steps(self):
        self.step()
        self.step()

    def mend(self):
        """Whole parameters without a state, as new."""
        seed = self.seed
        for optimizer, params in self.each():
            optimizer.state.clear()
            for i, p in enumerate(dict.fromkeys(params)):
                replace(optimizer, p, Parameter(normal(SHAPES[i % 3], seed + i)), with_state=False)
            for group in optimizer.param_groups:
                group["lr"] = 0.01
        assert everything(self.twins[0]) == everything(self.twins[1])
        self.gradients(255)


@every_backend
@pytest.mark.parametrize("without", [(), (1,)], ids=["all have a gradient", "some have"])
def test_an_unchanged_step_gathers_nothing(backend, without, monkeypatch):
    backend.load()
    gathered = []
    monkeypatch.setattr(layer_cache, "gather", lambda *given: gathered.append(1) or gather(*given))
    params = parameters([(4, 3), (5,), (2, 2)])
    optimizer = aida.Aida([{"params": params[:2]}, {"params": params[2:]}], **backend.arguments)
    for t in range(3):
        set_gradients(params, t)
        for i in without:
            params[i].grad = None
        optimizer.step()
    assert len(gathered) == len(optimizer.param_groups)


def test_the_kernel_reads_all_counters_of_a_kept_batch_at_once(monkeypatch):
    BACKENDS["cpu"].load()
    read = []
    monkeypatch.setattr(tensors, "counts", lambda counters: read.append(len(counters)) or counts(counters))
    optimizer = aida.Aida(parameters(), fused=True)
    train(optimizer, range(3))
    assert read == [3, 3, 3]


@every_backend
def test_a_state_that_another_parameter_has_now_is_not_stepped(backend):
    """The same dictionaries, in the same order, under other keys."""
    backend.load()
    p, q = parameters([(4, 3), (4, 3)])
    optimizer = aida.Aida([p, q], **backend.arguments)
    p.grad = torch.ones(4, 3)
    optimizer.step()
    optimizer.step()
    optimizer.state[q] = optimizer.state.pop(p)
    optimizer.step()
    assert (optimizer.state[p]["step"], optimizer.state[q]["step"]) == (1, 2)


def test_layouts_are_kept_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(layer_cache, "MAX_LAYOUTS", 2)
    params = parameters([(2,)] * 5)
    optimizer = aida.Aida(params)
    set_gradients(params, 0)
    for i, p in enumerate(params):
        optimizer.step_layers([(0, i, p)])
        assert len(optimizer._layers._found) <= 3
    assert {int(of_p["step"]) for of_p in optimizer.state.values()} == {1}


def copied(optimizer, how):
    if how == "deepcopy":
        return copy.deepcopy(optimizer)
    file = io.BytesIO()
    torch.save(optimizer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@every_backend
@pytest.mark.parametrize("cls", MEMBERS)
def test_a_kept_batch_steps_as_a_new_one(cls, backend):
    backend.load()
    settings = hypothesis.settings(max_examples=EXAMPLES, stateful_step_count=40, deadline=None,
                                   suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip
    machine = type("Twins", (Twins,), {"cls": cls, "arguments": backend.arguments})
    run_state_machine_as_test(machine, settings=settings)
