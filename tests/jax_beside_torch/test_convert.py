"""Checkpoints go both ways: training goes on on the other side as it would have on its own."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import aida
import aida_jax
from helpers.converted import (
    BETAS,
    LR,
    arrays,
    assert_same,
    from_tree,
    model,
    to_tree,
    train_jax,
    train_torch,
)
from helpers.jax_twins import FORMS, TWINS


@pytest.mark.parametrize(("name", "own"), FORMS)
def test_from_torch_and_on(name, own):
    net = model()
    one = getattr(aida, name)(net.named_parameters(), lr=LR, betas=BETAS, **own)
    train_torch(net, one, 5)
    other = TWINS[name](LR, *BETAS, **own)
    params = jax.tree.map(jnp.asarray, to_tree(arrays(net)))
    first, *rest = other.init(params)
    state = aida_jax.state_from_torch(one.state_dict(), to_tree)
    described = lambda x: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), x)  # noqa: E731
    assert described(state) == described(first)
    params, _ = train_jax(other, params, (state, *rest), 5)
    train_torch(net, one, 5)
    assert_same(net, params)


@pytest.mark.parametrize(("name", "own"), FORMS)
def test_to_torch_and_on(name, own):
    net = model()
    other = TWINS[name](LR, *BETAS, **own)
    params = jax.tree.map(jnp.asarray, to_tree(arrays(net)))
    params, state = train_jax(other, params, other.init(params), 5)
    with torch.no_grad():
        for p, x in zip(net.parameters(), map(from_tree(params).get, arrays(net)), strict=True):
            p.copy_(torch.tensor(np.array(x)))
    one = getattr(aida, name)(net.named_parameters(), lr=LR, betas=BETAS, **own)
    one.load_state_dict(aida_jax.state_to_torch(state[0], one, from_tree))
    train_torch(net, one, 5)
    params, _ = train_jax(other, params, state, 5)
    assert_same(net, params)


@pytest.mark.parametrize(("name", "own"), FORMS)
def test_there_and_back_is_the_same_state(name, own):
    net = model()
    one = getattr(aida, name)(net.named_parameters(), lr=LR, betas=BETAS, **own)
    train_torch(net, one, 3)
    before = copy.deepcopy(one.state_dict()["state"])
    state = aida_jax.state_from_torch(one.state_dict(), to_tree)
    after = aida_jax.state_to_torch(state, one, from_tree)["state"]
    for key, of_p in before.items():
        for part, x in of_p.items():
            torch.testing.assert_close(after[key][part], x, rtol=0, atol=0)


def test_a_momentum_of_bfloat16_goes_to_torch():
    net = model().float()
    other = aida_jax.aida(LR, mu_dtype=jnp.bfloat16)
    params = jax.tree.map(jnp.asarray, to_tree(arrays(net)))
    _, state = other.update(params, other.init(params), params)
    one = aida.Aida(net.named_parameters(), lr=LR)
    one.load_state_dict(aida_jax.state_to_torch(state[0], one, from_tree))
    np.testing.assert_array_equal(
        one.state[net[0].weight]["exp_avg"].numpy(), np.asarray(state[0].mu["first"]["kernel"].T, np.float32)
    )


@pytest.mark.parametrize("layerwise", ["pre", "post"])
def test_blocks_that_are_stacked_here(layerwise):
    """Three layers of torch in one leaf, each with its own v."""
    torch.manual_seed(0)
    net = torch.nn.ModuleList(torch.nn.Linear(3, 3, bias=False) for _ in range(3)).double()
    one = aida.LAdam(net.named_parameters(), lr=LR, layerwise=layerwise)
    stack = lambda named: {"blocks": np.stack([named[f"{i}.weight"].T for i in range(3)])}  # noqa: E731
    unstack = lambda tree: {f"{i}.weight": tree["blocks"][i].T for i in range(3)}  # noqa: E731
    leading = lambda path: 1  # noqa: E731
    for i, layer in enumerate(net):
        layer.weight.grad = (i + 1) * torch.randn(3, 3, dtype=torch.float64)
    one.step()
    state = aida_jax.state_from_torch(one.state_dict(), stack, layers=leading)
    assert state.nu["blocks"].shape == ((3,) if layerwise == "pre" else (3, 3, 3))
    other = aida_jax.ladam(LR, layerwise=layerwise, layers=leading)
    params = {"blocks": jnp.asarray(stack(arrays(net))["blocks"])}
    grads = {
        "blocks": jnp.asarray(
            stack({f"{i}.weight": x.weight.grad.numpy() for i, x in enumerate(net)})["blocks"]
        )
    }
    updates, _ = other.update(grads, (state, *other.init(params)[1:]), params)
    back = aida_jax.state_to_torch(state, one, unstack, layers=leading)
    one.load_state_dict(back)
    one.step()
    for name, x in unstack(optax.apply_updates(params, updates)).items():
        np.testing.assert_allclose(x, arrays(net)[name], atol=1e-12)


def cut(shape, how):
    """What `layers` of the torch side gives for a parameter that holds four layers."""
    if how == "rows":
        return [*range(4)]
    return [np.s_[..., i] for i in (2, 0, 3, 1)] if how == "columns" else None


@pytest.mark.parametrize("how", ["rows", "columns"])
@pytest.mark.parametrize("layerwise", ["pre", "post"])
def test_slices_of_the_torch_side_are_the_stacked_layers_here(layerwise, how):
    """Experts in one tensor, along its first axis or its last, which to_tree brings to the front."""
    torch.manual_seed(0)
    shape = (4, 3, 2) if how == "rows" else (3, 2, 4)
    net = torch.nn.ParameterDict(
        {"experts": torch.randn(shape), "router": torch.randn(4, 3), "none": torch.ones(0, 3)}
    ).double()
    of_experts = lambda name, p: cut(p.shape, how) if name == "experts" else None  # noqa: E731
    one = aida.LAida(net.named_parameters(), lr=LR, betas=BETAS, layerwise=layerwise, layers=of_experts)
    swapped = lambda named, there, here: {  # noqa: E731
        name: np.moveaxis(np.asarray(x), there, here) if how == "columns" and name == "experts" else x
        for name, x in named.items()
    }
    to_tree, from_tree = (lambda t: swapped(t, -1, 0)), (lambda t: swapped(t, 0, -1))
    leading = lambda path: int(path == "experts")  # noqa: E731
    other = aida_jax.laida(LR, *BETAS, layerwise=layerwise, layers=leading)
    params = jax.tree.map(jnp.asarray, to_tree(arrays(net)))
    state = other.init(params)
    rng = np.random.default_rng(0)

    def step(params, state):
        grads = {name: rng.standard_normal(p.shape) for name, p in net.items()}
        for name, p in net.items():
            p.grad = torch.tensor(grads[name])
        one.step()
        updates, state = other.update(jax.tree.map(jnp.asarray, to_tree(grads)), state, params)
        params = optax.apply_updates(params, updates)
        for name, x in from_tree(params).items():
            np.testing.assert_allclose(x, arrays(net)[name], rtol=0, atol=1e-12, err_msg=name)
        return params, state

    for _ in range(3):
        params, state = step(params, state)
    of_torch = aida_jax.state_from_torch(one, to_tree, layers=leading)
    for ours, theirs in zip(jax.tree.leaves(state[0]), jax.tree.leaves(of_torch), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    one.load_state_dict(aida_jax.state_to_torch(state, one, from_tree, layers=leading))
    step(params, (of_torch, *state[1:]))


def test_layers_of_one_side_that_the_other_was_not_told_are_refused():
    experts = torch.nn.Parameter(torch.randn(4, 3, 2, dtype=torch.float64))
    cut = aida.LAida([("experts", experts)], layers=lambda name, p: [*range(4)])
    whole = aida.LAida([("experts", experts)])
    experts.grad = torch.randn_like(experts)
    cut.step()
    leading = lambda path: 1  # noqa: E731
    with pytest.raises(ValueError, match=r"does not say where they lie: give the torch optimizer itself"):
        aida_jax.state_from_torch(cut.state_dict(), dict, layers=leading)
    with pytest.raises(ValueError, match=r"leaf 'experts' has several layers .* give layers="):
        aida_jax.state_from_torch(cut, dict)
    params = {"experts": jnp.asarray(experts.detach().numpy())}
    member = aida_jax.laida(LR, layers=leading)
    _, state = member.update(params, member.init(params), params)
    with pytest.raises(ValueError, match=r"nu of leaf 'experts' has the shape \(4,\), and \(\) belongs to"):
        aida_jax.state_to_torch(state, cut, dict)
    with pytest.raises(ValueError, match=r"parameter 'experts' has several layers .* the torch optimizer"):
        aida_jax.state_to_torch(state, whole, dict, layers=leading)
    with pytest.raises(ValueError, match=r"nu of leaf 'experts' .* give layerwise= and layers="):
        aida_jax.laida(LR).update(params, state, params)
    shared = aida.LAida([("experts", experts), ("w", torch.nn.Parameter(torch.ones(2)))], layers="module")
    shared.param_groups[0]["params"][1].grad = torch.ones(2)
    shared.step()
    with pytest.raises(ValueError, match=r"'experts' is a part of the layer '\(root\)'.* optimizer.init"):
        aida_jax.state_from_torch(shared, dict)


def test_the_whole_state_goes_to_torch():
    net = model()
    params = jax.tree.map(jnp.asarray, to_tree(arrays(net)))
    one, other = aida.Aida(net.named_parameters(), lr=LR), aida_jax.aida(LR)
    chained = optax.chain(optax.clip(1.0), other)
    _, state = chained.update(params, chained.init(params), params)
    found = aida_jax.state_to_torch(state, one, from_tree)
    assert str(found) == str(aida_jax.state_to_torch(state[1][0], one, from_tree))
    with pytest.raises(TypeError, match=r"optimizer is a Adam; .* such as aida.Aida"):
        aida_jax.state_to_torch(state, torch.optim.Adam(net.parameters()), from_tree)
    with pytest.raises(ValueError, match="2 ScaleByAidaStates"):
        aida_jax.state_to_torch((state, state), one, from_tree)


def test_an_adabelief_with_eps_in_its_v_is_refused_and_the_way_that_is_told_goes():
    timm = pytest.importorskip("timm.optim")
    net = model()
    names = [name for name, _ in net.named_parameters()]
    foreign, one = timm.AdaBelief(net.parameters(), lr=LR), aida.AdaBelief(net.named_parameters(), lr=LR)
    train_torch(net, foreign, 3)
    with pytest.raises(
        ValueError, match=r"no 'decoupled_weight_decay'.* eps in it; give what aida.convert_s"
    ):
        aida_jax.state_from_torch(foreign.state_dict(), to_tree, names)
    state = aida_jax.state_from_torch(aida.convert_state(foreign.state_dict(), one), to_tree, names)
    assert int(state.count) == 3


def test_layers_with_other_counters_are_refused_by_name():
    net = model()
    one = aida.Aida(net.named_parameters(), lr=LR)
    train_torch(net, one, 2)
    one.zero_grad()
    net[0].weight.grad = torch.ones_like(net[0].weight)
    one.step()
    with pytest.raises(ValueError, match=r"3 steps: 0.weight; 2 steps: 0.bias, 2.weight, 2.bias.*partition"):
        aida_jax.state_from_torch(one.state_dict(), to_tree)


def test_a_layer_that_was_never_stepped_is_refused_by_name():
    net = model()
    one = aida.Aida(net.named_parameters(), lr=LR)
    net[0].weight.grad = torch.ones_like(net[0].weight)
    one.step()
    with pytest.raises(ValueError, match=r"1 steps: 0.weight; 0 steps: 0.bias"):
        aida_jax.state_from_torch(one.state_dict(), to_tree)


def test_moments_of_8_bits_are_refused_and_the_way_that_is_told_goes():
    net = model()
    one = aida.Aida(net.named_parameters(), lr=LR, state_dtype="int8")
    train_torch(net, one, 2)
    with pytest.raises(ValueError, match=r"'0.weight' are codes of 8 bits.*state_dtype='float32'"):
        aida_jax.state_from_torch(saved := one.state_dict(), to_tree)
    for group in saved["param_groups"]:
        group["state_dtype"] = "float32"
    one.load_state_dict(saved)
    state = aida_jax.state_from_torch(one.state_dict(), to_tree)
    m = one.state[net[2].bias]["exp_avg"].numpy()
    np.testing.assert_array_equal(state.mu["second"]["bias"], m)


def test_states_that_are_none_are_refused():
    net = model()
    one = aida.Aida(net.parameters(), lr=LR)
    with pytest.raises(ValueError, match=r"4 parameters and no names: give names=\[name for"):
        aida_jax.state_from_torch(one.state_dict(), to_tree)
    names = [name for name, _ in net.named_parameters()]
    with pytest.raises(ValueError, match="this state is empty"):
        aida_jax.state_from_torch(one.state_dict(), to_tree, names)
    adam = torch.optim.Adam(net.named_parameters())
    train_torch(net, adam, 1)
    with pytest.raises(
        ValueError, match=r"'0.weight' has .*exp_avg_sq.* another optimizer than this family's"
    ):
        aida_jax.state_from_torch(adam.state_dict(), to_tree)
    with pytest.raises(ValueError, match="state_dict is not what"):
        aida_jax.state_from_torch(net.state_dict(), to_tree)
    state = aida_jax.scale_by_aida().init(jax.tree.map(jnp.asarray, to_tree(arrays(net))))
    with pytest.raises(
        ValueError, match=r"'0.weight' has the shape \(4, 5\), and from_tree gives the shape \(5, 4\)"
    ):
        aida_jax.state_to_torch(state, one, lambda tree: {k: x.T for k, x in from_tree(tree).items()}, names)
