"""What comes from torch is put into a whole optimizer's state, whose schedules go on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

import aida
import aida_jax
from helpers.converted import LR, arrays, model, to_tree, train_torch


def rates(optimizer, params, state, steps):
    """The learning rate of each of the next steps, and what is left of it in a step."""
    ones, found = jax.tree.map(jnp.ones_like, params), []
    scaling = aida_jax.scale_by_aida()
    own = aida_jax.convert.member_state(state)
    for _ in range(steps):
        direction, own = scaling.update(ones, own)
        updates, state = optimizer.update(ones, state, params)
        found.append(float(-updates["first"]["bias"][0] / direction["first"]["bias"][0]))
    return found


def injected(schedule):
    inject = optax.inject_hyperparams(aida_jax.aida, static_args=aida_jax.static_args(aida_jax.aida))
    return inject(learning_rate=schedule)


@pytest.mark.parametrize(
    "around",
    [
        aida_jax.aida,
        lambda schedule: optax.chain(optax.clip(1e9), aida_jax.aida(schedule)),
        lambda schedule: optax.masked(aida_jax.aida(schedule), True),
        lambda schedule: optax.chain(aida_jax.scale_by_aida(), optax.scale_by_learning_rate(schedule)),
        injected,
    ],
    ids=["aida", "chain", "masked", "scale_by_aida", "inject_hyperparams"],
)
def test_a_schedule_goes_on(around):
    net = model()
    one = aida.Aida(net.named_parameters(), lr=LR)
    train_torch(net, one, 7)
    params = jax.tree.map(jnp.asarray, to_tree(arrays(net)))
    schedule = optax.linear_schedule(1e-2, 0.0, 20)
    optimizer = around(schedule)
    state = aida_jax.state_from_torch(one.state_dict(), to_tree, into=optimizer.init(params))
    described = lambda x: jax.tree.map(lambda leaf: (jnp.shape(leaf), jnp.result_type(leaf)), x)  # noqa: E731
    assert described(state) == described(optimizer.init(params))
    np.testing.assert_allclose(rates(optimizer, params, state, 2), [schedule(7), schedule(8)], rtol=1e-6)


@pytest.mark.parametrize(
    ("around", "counts"),
    [
        (lambda o: optax.chain(optax.ema(0.9), o), 1),
        (lambda o: optax.chain(o, optax.contrib.reduce_on_plateau(patience=1, accumulation_size=2)), 1),
        (lambda o: optax.chain(optax.scale_by_adam(), o), 1),
        (lambda o: optax.partition({"a": o, "b": optax.adam(LR)}, {"first": "a", "second": "b"}), 1),
        (lambda o: optax.contrib.mechanize(o), 1),
        (lambda o: optax.chain(optax.add_noise(0.1, 0.5, 0), o), 0),
    ],
    ids=["ema", "plateau", "adam", "partition", "mechanize", "noise that is annealed"],
)
def test_what_counts_something_else_stays_as_it_is(around, counts):
    """Moments that begin at 0 are corrected by their own count, and a plateau's is of its mean."""
    net = model()
    one = aida.Aida(net.named_parameters(), lr=LR)
    train_torch(net, one, 7)
    params = jax.tree.map(jnp.asarray, to_tree(arrays(net)))
    optimizer = around(aida_jax.aida(optax.linear_schedule(1e-2, 0.0, 20)))
    state = aida_jax.state_from_torch(one.state_dict(), to_tree, into=optimizer.init(params))
    is_count = lambda path: getattr(path[-1], "name", None) == "count"  # noqa: E731
    found = [int(x) for path, x in jax.tree_util.tree_flatten_with_path(state)[0] if is_count(path)]
    assert sorted(found) == [0] * counts + [7] * (len(found) - counts)
    assert len(found) > counts + 1


def test_a_state_to_put_it_into_has_one_of_a_member():
    net = model()
    one = aida.Aida(net.named_parameters(), lr=LR)
    train_torch(net, one, 1)
    params = jax.tree.map(jnp.asarray, to_tree(arrays(net)))
    with pytest.raises(ValueError, match="0 ScaleByAidaStates"):
        aida_jax.state_from_torch(one.state_dict(), to_tree, into=optax.adam(LR).init(params))


@pytest.mark.parametrize("mu_dtype", [None, "bfloat16"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_momentum_has_the_type_of_the_members_own(dtype, mu_dtype):
    net = model().to(dtype)
    one = aida.Aida(net.named_parameters(), lr=LR)
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    one.step()
    optimizer = aida_jax.aida(LR, mu_dtype=mu_dtype)
    named = {name: jnp.asarray(p.detach().double().numpy()) for name, p in net.named_parameters()}
    params = jax.tree.map(lambda x: x.astype(str(dtype).removeprefix("torch.")), to_tree(named))
    first = optimizer.init(params)
    state = aida_jax.state_from_torch(one.state_dict(), to_tree, mu_dtype=mu_dtype, into=first)
    types = lambda state: [x.dtype for x in jax.tree.leaves(state)]  # noqa: E731
    assert types(state) == types(first)
    assert types(optimizer.update(params, state, params)[1]) == types(first)
