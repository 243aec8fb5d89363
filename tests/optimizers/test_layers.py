"""What a layer is: slices, modules and keys, against the definition written out in float64."""

import numpy as np
import pytest
import torch
from torch.nn import Parameter

import aida
from aida.backends import rounding
from aida.optimizers import shared_layers
from aida.optimizers.layers import Layering
from helpers.backends import every_backend
from helpers.layered import LAYERS, NAMES, SHARED, Twin, gradients, groups_of, mixed, parameters
from helpers.members import OWN, assert_bitwise, assert_near, set_gradients, snapshot, train

every_layers = pytest.mark.parametrize("layers", LAYERS, ids=["module", "mixed"])
every_case = pytest.mark.parametrize(
    ("cls", "own"), [(c, own) for c, settings in OWN.items() for own in settings]
)


def trained_with_twin(cls, own, layers, arguments, steps=5):
    params = parameters()
    optimizer = cls(groups_of(params), layers=layers, **SHARED, **own, **arguments)
    twin = Twin(cls, own, params, LAYERS[layers])
    for t in range(1, steps + 1):
        twin.step(gradients(params, t))
        optimizer.step()
    return optimizer, params, twin


@every_backend
@every_layers
@every_case
def test_a_step_is_the_definition(cls, own, layers, backend):
    backend.load(torch.float64)
    optimizer, params, twin = trained_with_twin(cls, own, layers, backend.arguments)
    assert_near(params, [*twin.p.values()], 1e-12)
    for name, p in zip(NAMES, params, strict=True):
        state = optimizer.state[p]
        assert_near([state["exp_avg"]], [twin.m[name]], 1e-12)
        assert state["step"] == twin.t[name]
        if twin.layerwise != "pre":
            assert_near([state["exp_avg_var"]], [twin.v[name]], 1e-12)
            continue
        places = [at for layer in LAYERS[layers] for part, at in layer if part == name]
        of_layers = torch.stack([twin.v[name][at].reshape(-1)[0] for at in places])
        assert_near([state["exp_avg_var"].reshape(-1)], [of_layers], 1e-12)


@pytest.mark.parametrize(
    ("cls", "own"), [(aida.Aida, {}), (aida.LAida, {}), (aida.LAida, {"layerwise": "post"})]
)
@pytest.mark.parametrize("wrong", ["none", "tensors in place of layers"])
def test_the_twin_sees_a_wrong_sum(cls, own, wrong, monkeypatch):
    def halved(tables, layers):
        true(tables, [layer[:-1] for layer in layers])

    true = shared_layers._add_up
    monkeypatch.setattr(shared_layers, "_add_up", {"none": lambda *_: None}.get(wrong, halved))
    _, params, twin = trained_with_twin(cls, own, "module", {})
    with pytest.raises(AssertionError, match="apart"):
        assert_near(params, [*twin.p.values()], 1e-6)


@every_backend
@pytest.mark.parametrize(
    ("cls", "mine", "other"),
    [
        *[(cls, {"K": 2}, {"K": 0}) for cls in (aida.Aida, aida.LAida)],
        (aida.LAida, {"K": 1}, {"K": 3, "xi": 1e-6}),
        *[(cls, {}, {"layerwise": "post"}) for cls in (aida.LAdam, aida.LAdaBelief, aida.LAida)],
    ],
)
def test_groups_of_a_layer_may_differ_in_what_they_need(cls, mine, other, backend):
    """A group's tensors step as if all groups had its settings: the sums are of the whole layer."""

    def vectors(*own):
        params = parameters()
        weights, rest = groups_of(params)
        groups = [{**rest, **own[0]}, {**weights, **own[1], "weight_decay": 0.0}]
        optimizer = cls(groups, layers="module", **SHARED, **backend.arguments)
        for t in range(1, 4):
            set_gradients(params, t)
            optimizer.step()
        return snapshot(optimizer)[: 4 * len(rest["params"])]  # p, m, v and step of each

    backend.load(torch.float64)
    assert_near(vectors(mine, other), vectors(mine, mine), 1e-12)


@pytest.mark.parametrize("of", [np.array, torch.tensor], ids=["numpy", "torch"])
def test_every_tensor_of_a_layer_has_the_sum_of_all(of):
    """Layers of three tensors, of two and of one, over two tables."""
    keys = [["a", "b", None, "a"], ["b", "c", "a"]]
    tables = [of([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0], [4.0, 40.0]]), of([[5.0, 50], [6.0, 60], [7.0, 70]])]
    shared_layers.add_up([*zip(keys, tables, strict=True)], {}, Layering())
    assert [table.tolist() for table in tables] == [
        [[12, 120], [7, 70], [3, 30], [12, 120]],
        [[7, 70], [6, 60], [12, 120]],
    ]


@every_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64], ids=str)
@every_case
def test_slices_are_parameters_of_their_own_to_the_bit(cls, own, dtype, backend):
    backend.load(dtype)
    generator = torch.Generator().manual_seed(4)
    drawn = torch.complex64 if dtype.is_complex else torch.float32

    def normal():  # of several blocks of the kernels
        return torch.randn(40, 1000, generator=generator, dtype=drawn).to(dtype)

    whole = Parameter(normal())
    apart = [Parameter(x.clone()) for x in whole.detach().split([30, 1, 9])]
    cuts = [slice(0, 30), 30, slice(31, 40)]
    arguments = dict(weight_decay=0.1, **SHARED, **own, **backend.arguments)
    one, many = cls([whole], layers=lambda name, p: cuts, **arguments), cls(apart, **arguments)
    for _ in range(3):
        whole.grad = normal()
        for p, g in zip(apart, whole.grad.split([30, 1, 9]), strict=True):
            p.grad = g
        one.step()
        many.step()
    assert_bitwise([whole], [torch.cat(apart)])
    for name in ("exp_avg", "exp_avg_var"):
        of_apart = [many.state[p][name] for p in apart]
        joined = torch.stack(of_apart) if of_apart[0].dim() == 0 else torch.cat(of_apart)
        assert_bitwise([one.state[whole][name]], [joined])


@every_backend
@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("cut", [np.s_[:3], np.s_[:, :3]], ids=["rows", "columns"])
def test_slices_draw_random_words_of_their_own(backend, capturable, cut):
    """Of rows, in order: those of the whole tensor, which a rule without sums shows to the bit."""
    backend.load(torch.bfloat16)
    rest = tuple(
        slice(3, None) if s == slice(None, 3) else s for s in (cut if isinstance(cut, tuple) else (cut,))
    )
    results = []
    for layers in ("tensor", lambda name, p: [cut, rest]):
        p = Parameter(torch.ones(8, 8, dtype=torch.bfloat16))
        arguments = dict(stochastic_rounding=True, state_dtype="bfloat16", capturable=capturable)
        optimizer = aida.AdamPlus([p], layers=layers, **arguments, **backend.arguments)
        for _ in range(3):
            p.grad = torch.ones(8, 8, dtype=torch.bfloat16)
            optimizer.step()
        results.append(snapshot(optimizer))
    whole, sliced = results
    if isinstance(cut, slice):
        assert_bitwise(whole, sliced)
    for x in sliced[:3]:  # equal slices, rounded alike, would be equal
        size = x[cut].shape if x.dim() else ()
        assert not size or not torch.equal(x[cut], x[rest][: size[0], : size[1]])


def test_no_word_is_drawn_twice():
    """Over slices of any form: their words are those of the whole, each once."""
    key, whole = 123456789, torch.zeros(6, 10)
    every = rounding.words(whole, key).flatten().tolist()
    drawn, first = [], 0
    for part in (whole[:, :3], whole[:2, 3:], whole[2:, 3:]):
        drawn += rounding.words(part, rounding.after(key, first)).flatten().tolist()
        first += part.numel()
    assert sorted(drawn) == sorted(every)
    assert len({*drawn}) == len(drawn)


@pytest.mark.parametrize(
    "arguments", [{}, {"capturable": True}, {"state_dtype": "bfloat16", "lr": torch.tensor(0.1)}]
)
def test_a_cut_parameter_counts_a_step_once(arguments):
    params = parameters(torch.float32)
    optimizer = aida.Aida([*zip(NAMES, params, strict=True)], layers=mixed, **arguments)
    train(optimizer, range(1, 4))
    assert {int(of_p[name]) for of_p in optimizer.state.values() for name in of_p if "step" in name} == {3}


def test_a_rule_is_given_each_layer_once():
    class Seen(aida.Layerwise):
        mixes_layers = True
        calls = []  # noqa: RUF012

        @staticmethod
        def rule(gg):
            Seen.calls.append(gg.tolist())
            return 1.0, gg / gg.sum()

    params = parameters()
    optimizer = Seen([*zip(NAMES, params, strict=True)], layers=mixed, betas=(0.0, 0.9))
    set_gradients(params, 1)
    optimizer.step()
    squares = {n: p.grad.square() for n, p in zip(NAMES, params, strict=True)}
    wanted = [sum(squares[n][at].sum().item() for n, at in layer) for layer in LAYERS[mixed]]
    (seen,) = Seen.calls
    assert sorted(seen) == pytest.approx(sorted(wanted))


@pytest.mark.parametrize(
    "rows", [np.arange(4), torch.arange(4), [np.int64(-1), *np.arange(3)], [np.uint8(0), 1, 2, 3]], ids=str
)
def test_slices_are_integers_of_any_library(rows):
    optimizer = aida.Aida([("a", torch.nn.Parameter(torch.ones(4, 2)))], layers=lambda name, p: [*rows])
    (p,) = optimizer.param_groups[0]["params"]
    assert sorted(x.box for x in optimizer.layering.slices(p)) == [((i, i + 1), (0, 2)) for i in range(4)]
    for wrong in (True, np.True_, torch.tensor(True), 1.0, np.float64(1), "1"):
        with pytest.raises(ValueError, match="gave the slice"):
            aida.Aida([torch.nn.Parameter(torch.ones(2))], layers=lambda name, p, wrong=wrong: [0, wrong])
