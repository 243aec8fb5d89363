"""What optax asks of an optimizer that is contributed to it, of every member in each of its forms."""

import inspect
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import aida_jax
from helpers.jax_members import MEMBERS, assert_bitwise, every_member, made, trained, tree, worst
from helpers.jax_targets import TARGETS

DTYPES = ("float16", "bfloat16", "float32", "float64")
GRADIENTS = [tree(seed=t) for t in range(1, 6)]


@every_member
def test_it_finds_the_optimum_of_four_targets(name):
    for what, target in TARGETS.items():
        params, goal, f = target(jnp.float32)
        optimizer = made(name, 1e-3)

        def step(carry, _, f=f, optimizer=optimizer):
            params, state = carry
            updates, state = optimizer.update(jax.grad(f)(params), state, params)
            return (optax.apply_updates(params, updates), state), None

        run = jax.jit(lambda carry, step=step: jax.lax.scan(step, carry, length=30_000)[0])
        params, _ = run((params, optimizer.init(params)))
        for ours, exact in zip(jax.tree.leaves(params), jax.tree.leaves(goal), strict=True):
            np.testing.assert_allclose(ours, exact, atol=1e-4, err_msg=what)


@every_member
def test_extra_arguments_and_a_second_step_compile_nothing(name):
    optimizer, params = made(name), tree()
    traces = Counter()

    @jax.jit
    def step(params, state, grads):
        traces["step"] += 1
        updates, state = optimizer.update(grads, state, params, value=1.0)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for grads in GRADIENTS:
        params, state = step(params, state, grads)
    assert traces["step"] == 1


@every_member
@pytest.mark.parametrize("dtype", DTYPES)
def test_shapes_and_types_stay_those_of_the_start(name, dtype, double):
    optimizer, params = made(name, weight_decay=0.1), tree(dtype)
    before = optimizer.init(params)
    updates, after = jax.jit(optimizer.update)(tree(dtype, seed=1), before, params)
    described = lambda x: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), x)  # noqa: E731
    assert described(before) == described(after)
    assert described(updates) == described(params)
    wide = jnp.promote_types(dtype, jnp.float32)
    assert {x.dtype for x in jax.tree.leaves((after[0].mu, after[0].nu))} == {wide}
    assert after[0].count.dtype == jnp.int32
    assert all(np.isfinite(np.asarray(x, np.float64)).all() for x in jax.tree.leaves(updates))
    assert described(optax.apply_updates(params, updates)) == described(params)


@every_member
def test_hyperparameters_can_be_injected(name):
    function, own = MEMBERS[name]
    injected = optax.inject_hyperparams(function, static_args=aida_jax.static_args(function))(
        learning_rate=1e-2, **own
    )
    params, state = trained(injected, tree(), GRADIENTS)
    expected, _ = trained(made(name), tree(), GRADIENTS)
    assert worst(params, expected) < 1e-5
    traces = Counter()

    @jax.jit
    def step(params, state, grads):
        traces["step"] += 1
        return injected.update(grads, state, params)

    updates, state = step(params, state, GRADIENTS[0])
    for name_, value in (("learning_rate", 0.0), ("b2", 0.9), ("eps", 1e-4)):
        state.hyperparams[name_] = jnp.asarray(value, jnp.float32)
        other, _ = step(params, state, GRADIENTS[0])
        assert worst(other, updates) > 1e-3, name_
    assert worst(other, jax.tree.map(jnp.zeros_like, other)) == 0.0
    assert traces["step"] == 1


@every_member
def test_gradients_can_be_accumulated(name):
    """k gradients through MultiSteps make the step of their mean."""
    optimizer = made(name)
    params, _ = trained(optax.MultiSteps(optimizer, every_k_schedule=2), tree(), GRADIENTS[:4])
    means = [jax.tree.map(lambda a, b: (a + b) / 2, *GRADIENTS[i : i + 2]) for i in (0, 2)]
    expected, _ = trained(optimizer, tree(), means)
    assert worst(params, expected) < 1e-6


@every_member
def test_a_schedule_is_its_values(name):
    schedule = optax.piecewise_constant_schedule(1e-2, {2: 0.1})
    params, state = trained(made(name, schedule), tree(), GRADIENTS)
    expected, other = trained(made(name, 1e-2), tree(), GRADIENTS[:2])
    expected, _ = trained(made(name, 1e-3), expected, GRADIENTS[2:], other)
    assert worst(params, expected) < 1e-6
    assert int(state[0].count) == len(GRADIENTS)


@every_member
def test_a_map_over_parameters_reaches_the_moments(name):
    optimizer, params = made(name), tree()
    _, state = trained(optimizer, params, GRADIENTS)
    assert_bitwise(optax.tree_utils.tree_map_params(optimizer, lambda x: x, state), state)
    zeroed = optax.tree_utils.tree_map_params(optimizer, jnp.zeros_like, state)
    assert all(not np.any(x) for x in jax.tree.leaves((zeroed[0].mu, zeroed[0].nu)))
    assert int(zeroed[0].count) == len(GRADIENTS)


@every_member
def test_weight_decay_is_decoupled_and_masked(name):
    params = tree()
    decayed = {"dense": {"kernel": True, "bias": False}, "scale": False}
    with_decay = made(name, weight_decay=0.5, mask=decayed)
    as_function = made(name, weight_decay=0.5, mask=lambda p: jax.tree.map(lambda x: x.ndim > 1, p))
    plain = made(name)
    update = lambda o: o.update(GRADIENTS[0], o.init(params), params)[0]  # noqa: E731
    ours, expected = update(with_decay), update(plain)
    expected["dense"]["kernel"] -= 1e-2 * 0.5 * params["dense"]["kernel"]
    assert worst(ours, expected) < 1e-6
    assert_bitwise(update(as_function), ours)


@every_member
def test_without_decay_parameters_are_not_needed(name):
    optimizer = made(name)
    updates, _ = optimizer.update(GRADIENTS[0], optimizer.init(tree()))
    expected, _ = optimizer.update(GRADIENTS[0], optimizer.init(tree()), tree())
    assert_bitwise(updates, expected)


@every_member
def test_the_moments_type_can_be_chosen(name):
    optimizer, params = made(name, mu_dtype=jnp.bfloat16), tree()
    ours, state = trained(optimizer, params, GRADIENTS)
    assert {x.dtype for x in jax.tree.leaves(state[0].mu)} == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves(state[0].nu)} == {jnp.dtype(jnp.float32)}
    expected, _ = trained(made(name), params, GRADIENTS)
    assert 0 < worst(ours, expected) < 0.02


@every_member
def test_rectified_and_not_is_another_step(name):
    rectified, _ = trained(made(name, rectify=True, b2=0.9), tree(), GRADIENTS)
    plain, _ = trained(made(name, b2=0.9), tree(), GRADIENTS)
    assert worst(rectified, plain) > 1e-3


@every_member
def test_a_scaling_is_its_optimizer_without_the_learning_rate(name):
    function, own = MEMBERS[name]
    scaling = getattr(aida_jax, f"scale_by_{function.__name__}")
    chained = optax.chain(scaling(**own), optax.scale_by_learning_rate(1e-2))
    ours, _ = trained(chained, tree(), GRADIENTS)
    assert_bitwise(ours, trained(made(name), tree(), GRADIENTS)[0])
    shared = {*inspect.signature(function).parameters} - {"learning_rate", "weight_decay", "mask"}
    assert shared == {*inspect.signature(scaling).parameters}


def test_the_members_are_different_optimizers():
    """A negative control: no two forms give the same parameters, but those that are the same."""
    ends = {name: trained(made(name, eps=1e-3), tree(), GRADIENTS)[0] for name in MEMBERS}
    same = {(a, b) for a in ends for b in ends if a < b and worst(ends[a], ends[b]) < 1e-6}
    assert same == set()
