"""Half-size types: sums and stepsizes of float32, and each trap of those types."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import aida_jax
from helpers.jax_members import MEMBERS, every_member, made, trained, tree, worst

halves = pytest.mark.parametrize("dtype", ["float16", "bfloat16"])


@every_member
@halves
def test_zero_gradients_give_zero_updates(name, dtype):
    """xi = 1e-20 is 0 in float16: sums of that type would give 0/0."""
    zeros = tree(dtype, scale=0.0)
    params, state = trained(made(name), tree(dtype), [zeros] * 3)
    assert worst(params, tree(dtype)) == 0.0
    assert all(np.isfinite(np.asarray(x, np.float64)).all() for x in jax.tree.leaves(state))


@every_member
@halves
def test_zero_gradients_after_others(name, dtype):
    params, state = trained(made(name), tree(dtype), [tree(dtype, 1), *[tree(dtype, scale=0.0)] * 3])
    assert all(np.isfinite(np.asarray(x, np.float64)).all() for x in jax.tree.leaves((params, state)))


@every_member
@halves
def test_a_step_is_that_of_float32_rounded_once(name, dtype):
    """Sums, moments and stepsizes know nothing of the type: the scaled gradient is rounded, and no more."""
    function, own = MEMBERS[name]
    scaling = getattr(aida_jax, f"scale_by_{function.__name__}")(**own)
    grads = [tree(dtype, seed) for seed in (1, 2, 3)]
    wide = [jax.tree.map(lambda x: x.astype(jnp.float32), g) for g in grads]
    state, other = scaling.init(tree(dtype)), scaling.init(tree())
    for g, w in zip(grads, wide, strict=True):
        updates, state = scaling.update(g, state)
        expected, other = scaling.update(w, other)
    assert worst(state, other) == 0.0
    rounded = jax.tree.map(lambda x: x.astype(dtype), expected)
    assert worst(updates, rounded) == 0.0
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}


def test_sums_do_not_stop_at_what_the_type_can_count():
    """In float16 the sum of 10^5 ones is infinite, in bfloat16 it stops at 256."""
    for dtype in ("float16", "bfloat16"):
        optimizer = aida_jax.scale_by_ladam(b2=0.0)
        ones = jnp.ones(100_000, dtype)
        _, state = optimizer.update(ones, optimizer.init(ones))
        np.testing.assert_allclose(state.nu, 1.0, rtol=1e-6)


def test_long_sums_are_exact_to_rounding():
    """2^24 equal numbers: added one by one in float32 they would stop at a 16 millionth."""
    optimizer = aida_jax.scale_by_ladam(b2=0.0)
    x = jnp.full(2**24 + 2**20, 0.1, jnp.float32)
    _, state = jax.jit(optimizer.update)(x, optimizer.init(x))
    np.testing.assert_allclose(state.nu, np.float32(0.1) ** 2, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in MEMBERS if "aida" in name])
def test_injected_values_of_a_half_size_model_need_float32(name):
    """optax gives hyperparameters the parameters' type: b2 = 0.999 is 1 in bfloat16."""
    function, own = MEMBERS[name]
    inject = optax.inject_hyperparams(
        function, static_args=aida_jax.static_args(function), hyperparam_dtype=jnp.float32
    )
    params, state = trained(inject(learning_rate=1e-2, **own), tree("bfloat16"), [tree("bfloat16", 1)])
    expected, _ = trained(made(name), tree("bfloat16"), [tree("bfloat16", 1)])
    assert worst(params, expected) < 0.01
    assert float(state.hyperparams["b2"]) == np.float32(0.999)


def test_injected_values_of_float16_give_no_nan():
    """There xi is 0, and eps is 0: no projection is taken where it would be 0/0."""
    inject = optax.inject_hyperparams(aida_jax.aida, static_args=aida_jax.static_args(aida_jax.aida))
    zeros = tree("float16", scale=0.0)
    params, state = trained(inject(learning_rate=1e-2), tree("float16"), [zeros] * 2)
    assert float(state.hyperparams["xi"]) == 0.0
    assert worst(params, tree("float16")) == 0.0


@every_member
@pytest.mark.parametrize("wide", ["weight_decay", "learning_rate"])
def test_updates_have_the_gradients_type_whatever_else_is_wider(name, wide):
    """apply_if_finite and others compile on this."""
    of_wide = {"weight_decay": 0.1} if wide == "weight_decay" else {"learning_rate": jnp.float32(1e-2)}
    params, grads = tree(), tree("bfloat16", 1)
    optimizer = optax.apply_if_finite(made(name, **of_wide), 3)
    updates, _ = jax.jit(optimizer.update)(grads, optimizer.init(params), params)
    assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype("bfloat16")}
    alone = made(name, **of_wide)
    expected, _ = alone.update(tree(seed=1), alone.init(params), params)
    assert worst(updates, expected) < 0.02


@every_member
def test_a_jax_without_promotion_steps_as_another(name):
    expected, _ = trained(made(name), tree("bfloat16"), [tree("bfloat16", 1)])
    with jax.numpy_dtype_promotion("strict"):
        ours, _ = trained(made(name), tree("bfloat16"), [tree("bfloat16", 1)])
    assert worst(ours, expected) == 0.0


@every_member
def test_types_beside_one_another_and_rectification_need_no_promotion(name, double):
    """In a strict jax; and the rows of such a step."""
    given = lambda t: {"a": tree(jnp.float32, t), "b": tree(jnp.float64, t), "c": tree("bfloat16", t)}  # noqa: E731
    found = []
    for promotion in ("standard", "strict"):
        with jax.numpy_dtype_promotion(promotion):
            optimizer = made(name, rectify=True)
            params, state = trained(optimizer, given(0), [given(1), given(2)])
            rows = aida_jax.layer_stepsizes(state, params, given(2), optimizer=optimizer)
        found.append((params, state, [row["mean"] for row in rows]))
    assert worst(found[1], found[0]) == 0.0


@every_member
def test_infinite_sums_spoil_no_layer(name):
    """g^2 overflows float32: v is infinite and u 0, as in torch's Adam; the other layers do not notice."""
    big = tree(seed=1)
    big["dense"]["kernel"] = big["dense"]["kernel"] * 1e30
    params, _ = trained(made(name), tree(), [big])
    expected, _ = trained(made(name), tree(), [tree(seed=1)])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
    assert worst(params["dense"]["bias"], expected["dense"]["bias"]) < 1e-6


def test_the_published_xi_is_not_negligible(double):
    """Gradients near 1e-10 give gg near 1e-20 = xi: the recurrence in float32 is that in float64."""
    small = [tree(seed=t, scale=1e-10) for t in (1, 2, 3)]
    wide = [tree(jnp.float64, t, 1e-10) for t in (1, 2, 3)]
    optimizer = aida_jax.scale_by_aida(eps=1e-30)
    states = []
    for grads in (small, wide):
        state = optimizer.init(grads[0])
        for g in grads:
            _, state = optimizer.update(g, state)
        states.append(state)
    assert worst(states[0].nu, states[1].nu) < 1e-5


def slopes(name, g, order=1, **more):
    """The derivative of two steps' updates by g, or of that along 1, 2, 3; in the type of g."""
    optimizer = made(name, **more)

    def moved(g):
        params = {"w": jnp.ones_like(g), "live": jnp.ones_like(g)}
        state, total = optimizer.init(params), 0.0
        for scale in (1.0, 0.5):
            grads = {"w": scale * g, "live": jnp.sin(g + 1)}
            updates, state = optimizer.update(grads, state, params)
            total += sum(jnp.sum(u * (1 + u)) for u in updates.values())
        return total

    along = lambda g: jnp.sum(jax.grad(moved)(g) * jnp.arange(1.0, 4.0, dtype=g.dtype))  # noqa: E731
    return jax.jit(jax.grad(moved if order == 1 else along))(g)


@every_member
@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e-10, 1e-6])
def test_a_step_has_the_derivative_that_float64_has(name, scale, double):
    """Down to a gradient of 0, where jax's derivative of a quotient is 0/0 in float32."""
    wide = scale * np.asarray([1.0, -2.0, 3.0])
    expected = slopes(name, jnp.asarray(wide))
    ours = slopes(name, jnp.asarray(wide, jnp.float32))
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-5 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize("name", ["aida", "laida-pre"])
def test_a_second_derivative_is_that_of_float64(name, double):
    wide = np.asarray([1.0, -2.0, 3.0])
    expected = slopes(name, jnp.asarray(wide), order=2, eps=1e-3)
    ours = slopes(name, jnp.asarray(wide, jnp.float32), order=2, eps=1e-3)
    np.testing.assert_allclose(ours, expected, rtol=1e-3)
