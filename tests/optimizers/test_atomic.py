"""A step that is refused has not begun: all groups, types and backends; and it lets go of what it held."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch.nn import Parameter

import aida
from aida.optimizers.waves import Worked, waves_of
from helpers.backends import every_backend
from helpers.edits import everything, outcome
from helpers.members import MEMBERS, OWN, parameters, set_gradients, train

every_member = pytest.mark.parametrize("cls", MEMBERS)


def several(cls, backend, **options):
    """Two groups, two types in the second, stepped twice; its parameters."""
    backend.load()
    first, second = parameters([(4, 3), (5,)]), parameters([(3,), (2, 2)])
    second[1].data = second[1].data.bfloat16()
    groups = [{"params": first}, {"params": second, "lr": 0.1}]
    optimizer = cls(groups, **backend.arguments, **options)
    train(optimizer, range(2))
    params = [*first, *second]
    set_gradients(params, 2)
    return optimizer, params


BROKEN = {
    "shape": lambda s, p: s.update(exp_avg=torch.zeros(7)),
    "missing": lambda s, p: s.pop("exp_avg"),
    "no tensor": lambda s, p: s.update(exp_avg=0.0),
    "meta": lambda s, p: s.update(exp_avg=s["exp_avg"].to("meta")),
    "integers": lambda s, p: s.update(exp_avg=s["exp_avg"].int()),
    "complex": lambda s, p: s.update(exp_avg=s["exp_avg"] + 0j),
    "sparse": lambda s, p: s.update(exp_avg=s["exp_avg"].to_sparse()),
    "freed": lambda s, p: s["exp_avg"].untyped_storage().resize_(0),
    "expanded": lambda s, p: s.update(exp_avg=torch.zeros(()).expand(p.shape)),
    "one memory": lambda s, p: s.update(exp_avg=p.data),
    "two counters": lambda s, p: s.update(step=torch.zeros(2)),
    "negative counter": lambda s, p: s["step"].fill_(-1.0),
    "bool counter": lambda s, p: s.update(step=torch.tensor(True)),
    "counter of 8 bits": lambda s, p: s.update(step=torch.tensor(2, dtype=torch.int8)),
    "nan counter": lambda s, p: s["step"].fill_(torch.nan),
    "freed counter": lambda s, p: s["step"].untyped_storage().resize_(0),
    "sparse gradient": lambda s, p: setattr(p, "grad", p.grad.to_sparse()),
}


@every_backend
@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("which", [2, 3], ids=["other group", "other type"])
def test_a_refused_step_has_not_begun(backend, broken, which):
    for cls in MEMBERS:
        optimizer, params = several(cls, backend)
        fresh = Parameter(torch.ones(3))
        fresh.grad = torch.ones(3)
        optimizer.add_param_group({"params": [fresh]})
        BROKEN[broken](optimizer.state[params[which]], params[which])
        assert outcome(optimizer)  # which compares all before with all after
        assert fresh not in optimizer.state


RULES = {
    "raises": lambda gg, gm, mm: 1 / 0,
    "one number": lambda gg, gm, mm: 1.0,
    "other lengths": lambda gg, gm, mm: (gg[:1] + torch.nan, gm),
    "three": lambda gg, gm, mm: (gg, gm, mm),
}


@every_backend
@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("layerwise", [False, True])
def test_a_rule_that_fails_changes_nothing(backend, kind, layerwise):
    own = {"layerwise": "post"} if layerwise else {}
    cls = type("Own", (aida.LAdam if layerwise else aida.AdamPlus,), {"rule": staticmethod(RULES[kind])})
    backend.load()
    params = parameters([(4, 3), (5,)])
    optimizer = cls(params, **own, **backend.arguments)
    set_gradients(params, 0)
    before = everything(optimizer)
    with pytest.raises((ZeroDivisionError, RuntimeError, TypeError, ValueError)):
        optimizer.step()
    assert everything(optimizer) == before


@every_backend
def test_a_refused_step_lets_gradients_go(backend):
    optimizer, params = several(aida.Aida, backend)
    optimizer.state[params[3]]["exp_avg"] = torch.zeros(7)
    with pytest.raises(RuntimeError, match="nothing was stepped"):
        optimizer.step()
    gone = [weakref.ref(p.grad) for p in params]
    optimizer.zero_grad()
    gc.collect()
    assert not any(ref() is not None for ref in gone)


@every_backend
@every_member
def test_a_step_lets_gradients_go(cls, backend):
    optimizer, params = several(cls, backend)
    optimizer.step()
    optimizer.step()
    params[0].grad = params[0].grad.t().contiguous().t()  # of which a kernel may make copies
    optimizer.step()
    gone = [weakref.ref(p.grad) for p in params]
    optimizer.zero_grad()
    assert not any(ref() is not None for ref in gone)


@every_backend
def test_a_step_lets_a_removed_group_go(backend):
    optimizer = several(aida.Aida, backend)[0]
    optimizer.step()
    group = optimizer.param_groups.pop()
    gone = [weakref.ref(x) for p in group["params"] for x in (p, *optimizer.state.pop(p).values())]
    group.clear()
    optimizer.step()
    gc.collect()
    assert not any(ref() is not None for ref in gone)


def test_what_a_backend_prepared_is_not_given_to_another():
    p = Parameter(torch.ones(3, dtype=torch.complex64))
    optimizer = aida.Aida([p])
    for foreach in (None, True):
        optimizer.param_groups[0]["foreach"] = foreach
        p.grad = torch.ones_like(p)
        optimizer.step()
    (found,) = optimizer._layers._found.values()
    assert [type(batch.layers.prepared) for batch in found.batches] == [bool]  # foreach's


@every_backend
def test_parameters_of_inference_mode_are_refused_outside_of_it(backend):
    backend.load()
    with torch.inference_mode():
        p = Parameter(torch.ones(3))
        p.grad = torch.ones(3)
    optimizer = aida.Aida([p], **backend.arguments)
    with pytest.raises(RuntimeError, match=r"parameter 0 of its group was made in torch\.inference"):
        optimizer.step()
    with torch.inference_mode():
        optimizer.step()
    before = everything(optimizer)
    with pytest.raises(RuntimeError, match="nothing was stepped"):
        optimizer.step()
    assert everything(optimizer) == before


@every_backend
def test_a_first_step_in_inference_mode_is_followed_by_others(backend):
    backend.load()
    p = Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    optimizer = aida.Aida([p], **backend.arguments)
    with torch.inference_mode():
        optimizer.step()
    optimizer.step()
    assert float(optimizer.state[p]["step"]) == 2


class FailsLater(aida.Aida):
    """A rule that raises when it is asked for the `calls`-th time."""

    calls = 0

    @classmethod
    def rule(cls, gg, gm, mm):
        cls.calls -= 1
        return 1 / cls.calls, 0 * gg + 1


@every_backend
@pytest.mark.parametrize(
    "options", [{}, {"layerwise": "post"}, {"state_dtype": "bfloat16"}, {"state_dtype": "int8"}], ids=str
)
@pytest.mark.parametrize("steps", [0, 2], ids=["first step", "later step"])
def test_a_rule_that_fails_in_a_later_wave_leaves_the_earlier_ones_unstepped(backend, options, steps):
    backend.load()
    base = aida.LAida if "layerwise" in options else aida.Aida
    cls = type("FailsLater", (base,), {"calls": 0, "rule": vars(FailsLater)["rule"]})
    p, q = parameters([(4, 3), (5,)])
    with pytest.warns(UserWarning, match="duplicate parameters"):
        optimizer = cls([p, q, p, p], weight_decay=0.1, **options, **backend.arguments)
    for t in range(steps):
        set_gradients([p, q], t)
        cls.calls = 100
        optimizer.step()
    set_gradients([p, q], steps)
    cls.calls = 3  # the last of three waves
    before = everything(optimizer)
    with pytest.raises(ZeroDivisionError):
        optimizer.step()
    assert everything(optimizer) == before
    cls.calls = 100
    optimizer.step()
    assert float(optimizer.state[p]["step"]) == 3 * (steps + 1)


@every_backend
def test_a_parameter_that_a_lazy_module_has_yet_to_make_is_skipped(backend):
    backend.load()
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LazyLinear(2))
    for cls in MEMBERS:
        optimizer = cls(model.parameters(), **backend.arguments)
        torch.optim.Adam(model.parameters()).step()
        optimizer.step()
        model[0].weight.grad = torch.ones(4, 3)
        optimizer.step()
        assert set(optimizer.state) == {model[0].weight}
        model[0].weight.grad = None


@every_backend
@every_member
@pytest.mark.filterwarnings("error")
def test_numpy_that_raises_at_every_oddity_changes_nothing(cls, backend):
    found = []
    for how in ("warn", "raise"):
        optimizer, params = several(cls, backend)
        params[0].grad.fill_(torch.inf)
        params[1].grad.fill_(0)
        params[2].grad.fill_(1e30)
        with np.errstate(all="ignore"):
            np.seterr(all="ignore" if how == "warn" else "raise")
            optimizer.step()
            optimizer.step()
        found.append(everything(optimizer))
    assert found[0] == found[1]


@every_backend
@pytest.mark.parametrize(
    "options", [{}, {"state_dtype": torch.bfloat16}, {"state_dtype": torch.int8}, {"capturable": True}]
)
def test_a_default_device_is_for_the_models_tensors_alone(backend, options):
    """ "meta" stands for any: a host tensor made there by mistake has no memory."""
    backend.load()
    for cls in MEMBERS:
        found = []
        for device in (None, "meta"):
            params = parameters()
            torch.set_default_device(device)
            try:
                optimizer = cls(params, **{**OWN[cls][-1], **options, **backend.arguments})
                for t in range(3):
                    with torch.device("cpu"):
                        set_gradients(params, t)
                    optimizer.step()
                optimizer.load_state_dict(optimizer.state_dict())
                optimizer.step()
            finally:
                torch.set_default_device(None)
            found.append(everything(optimizer))
        assert found[0] == found[1]


def test_the_message_about_sparse_gradients_names_the_module_argument():
    model = torch.nn.Embedding(5, 3, sparse=True)
    optimizer = aida.Aida(model.parameters())
    model(torch.tensor([1, 2])).sum().backward()
    with pytest.raises(
        RuntimeError, match=r"Aida does not support sparse gradients.*build the layer with sparse=False"
    ):
        optimizer.step()


def test_what_one_layer_has_inside_of_its_span_hides_no_other_layer():
    """v lies between the elements of p, and another parameter after v, still inside of p's span."""
    memory = torch.zeros(8)
    p, v, q = Parameter(memory[::7]), memory[1], Parameter(memory[3:5])
    m, n, w = torch.zeros(2), torch.zeros(2), torch.zeros(2)
    layers = [Worked(p, (p, m, m, v), False), Worked(q, (q, n, n, w), False)]
    assert waves_of(layers) == ([1, 0], [0, 0])
    apart = Worked(q, (torch.zeros(2), n, n, w), False)
    assert waves_of([layers[0], apart]) == ([0, 0], [0, 0])


@pytest.mark.parametrize("cls", [aida.Aida, aida.LAdam])
@pytest.mark.parametrize("steps", [0, 2], ids=["first step", "later step"])
def test_a_differentiable_step_of_a_leaf_is_refused(cls, steps):
    leaf, computed = Parameter(torch.ones(4, 3)), Parameter(torch.ones(4, 3)).clone()
    optimizer = cls([computed.detach().requires_grad_(False), leaf], differentiable=True)
    leaf.requires_grad_(False)
    params = optimizer.param_groups[0]["params"]
    for t in range(steps):
        set_gradients(params, t)
        optimizer.step()
    leaf.requires_grad_(True)
    set_gradients(params, steps)
    assert "parameter 1 of its group is a leaf that requires grad" in outcome(optimizer)
    leaf.requires_grad_(False)
    assert not outcome(optimizer)
