"""What a layer is: leaves, stacked layers, complex leaves; and rules of a user's own."""

import functools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import aida_jax
from helpers.jax_members import assert_bitwise, every_member, made, trained, tree, worst


def stacked(seed):
    """Three blocks in one leaf each, as flax.linen.scan has them, and a head."""
    rng = np.random.default_rng(seed)
    given = functools.partial(jnp.asarray, dtype=jnp.float32)
    blocks = {"kernel": given(rng.standard_normal((3, 4, 2))), "bias": given(rng.standard_normal((3, 2)))}
    return {"blocks": blocks, "head": given(rng.standard_normal(5))}


def apart(tree):
    return {
        "blocks": [jax.tree.map(lambda x, i=i: x[i], tree["blocks"]) for i in range(3)],
        "head": tree["head"],
    }


def leading(path):
    return int(path.startswith("blocks/"))


GRADIENTS = [stacked(seed) for seed in (1, 2, 3)]


@every_member
def test_stacked_layers_are_stepped_as_layers_apart(name):
    ours, state = trained(made(name, layers=leading), stacked(0), GRADIENTS)
    expected, other = trained(made(name), apart(stacked(0)), [apart(g) for g in GRADIENTS])
    assert worst(apart(ours), expected) < 1e-6
    assert worst(apart(state[0].nu), other[0].nu) < 1e-5


def test_stacked_layers_without_a_word_are_one_layer():
    """A negative control."""
    ours, _ = trained(made("aida"), stacked(0), GRADIENTS)
    expected, _ = trained(made("aida", layers=leading), stacked(0), GRADIENTS)
    assert worst(ours["blocks"], expected["blocks"]) > 1e-4
    assert worst(ours["head"], expected["head"]) < 1e-6


def test_two_leading_axes_count_layers():
    """A scan of scans, and experts of a stacked matrix."""
    x, g = (jnp.asarray(np.random.default_rng(s).standard_normal((2, 3, 4)), jnp.float32) for s in (0, 1))
    ours, state = trained(made("laida-pre", layers=lambda path: 2), [x], [[g]])
    assert state[0].nu[0].shape == (2, 3)
    flat = [x[i, j] for i in range(2) for j in range(3)]
    expected, _ = trained(made("laida-pre"), flat, [[g[i, j] for i in range(2) for j in range(3)]])
    assert worst(list(ours[0].reshape(6, 4)), expected) < 1e-6


def test_layers_may_be_any_integer():
    state = aida_jax.scale_by_ladam(layers=lambda path: np.int64(1)).init({"a": jnp.ones((3, 2))})
    assert state.nu["a"].shape == (3,)


@pytest.mark.parametrize("given", [2, -1, 1.0, None])
def test_another_answer_of_layers_is_refused(given):
    with pytest.raises(ValueError, match=rf"layers\('a'\) is {given}; .* integer from 0 .* to 1"):
        aida_jax.scale_by_aida(layers=lambda path: given).init({"a": jnp.ones(3)})


def test_paths_have_the_names_of_keys_places_and_fields():
    seen = []
    nested = {"a": [jnp.ones(2), (jnp.ones(1),)], "b": optax.TraceState(trace=jnp.ones(1))}
    aida_jax.scale_by_aida(layers=lambda path: seen.append(path) or 0).init(nested)
    assert seen == ["a/0", "a/1/0", "b/trace"]


@every_member
def test_a_complex_leaf_is_a_layer_of_its_real_and_imaginary_parts(name):
    rng = np.random.default_rng(0)
    as_pairs = lambda: rng.standard_normal((4, 3, 2)).astype(np.float32)  # noqa: E731
    params, *gradients = [as_pairs() for _ in range(4)]
    as_complex = lambda x: jnp.asarray(x[..., 0] + 1j * x[..., 1])  # noqa: E731
    ours, state = trained(made(name), as_complex(params), [as_complex(g) for g in gradients])
    expected, other = trained(made(name), jnp.asarray(params), [jnp.asarray(g) for g in gradients])
    assert ours.dtype == jnp.complex64
    assert worst(ours, as_complex(expected)) < 1e-6
    nu = other[0].nu
    assert worst(state[0].nu, nu if nu.ndim == 0 else as_complex(nu)) < 1e-6


@every_member
def test_a_number_is_a_layer(name):
    ours, _ = trained(made(name), {"a": 1.5}, [{"a": jnp.asarray(0.3)}] * 3)
    expected, _ = trained(made(name), {"a": jnp.ones(1) * 1.5}, [{"a": jnp.ones(1) * 0.3}] * 3)
    np.testing.assert_allclose(ours["a"], expected["a"][0], rtol=1e-6)


def test_elements_that_never_moved_are_left_out_of_the_mean():
    """Of "post": their u, the largest that eps allows, would pull the others to itself."""
    optimizer = aida_jax.scale_by_ladam(layerwise="post")
    grads = {"a": jnp.asarray([1.0, 2.0, 0.0, 0.0]), "b": jnp.zeros(2)}
    updates, _ = optimizer.update(grads, optimizer.init(grads))
    u = np.mean([1 / np.sqrt(g * g + 1e-5) for g in (1.0, 2.0)])
    np.testing.assert_allclose(updates["a"], u * grads["a"], rtol=1e-5)
    np.testing.assert_array_equal(updates["b"], 0.0)


def damped(gg, mm, *, power=1.0):
    return 1.0, (mm / (mm + gg + 1e-30)) ** power


def test_a_rule_of_ones_own_is_given_the_sums_that_it_names():
    """Against the formula, written out for one layer."""
    optimizer = aida_jax.scale_by_layerwise(functools.partial(damped, power=0.5), b1=0.8, b2=0.9, eps=1e-6)
    state = optimizer.init(tree())
    m, v = np.zeros((4, 3)), np.zeros((4, 3))
    for t in (1, 2, 3):
        grads = tree(seed=t)
        updates, state = jax.jit(optimizer.update)(grads, state)
        g = np.asarray(grads["dense"]["kernel"], np.float64)
        m = 0.8 * m + 0.2 * g
        beta = (np.sum(m * m) / (np.sum(m * m) + np.sum(g * g))) ** 0.5
        v = 0.9 * v + 0.1 * (beta * m - g) ** 2
        u = 1 / np.sqrt(v / (1 - 0.9**t) + 1e-6 / 0.1)
        np.testing.assert_allclose(updates["dense"]["kernel"], u * m / (1 - 0.8**t), rtol=2e-5)


@pytest.mark.parametrize("layerwise", [None, "pre", "post"])
def test_a_rule_may_give_arrays_of_numpy(layerwise):
    """As factors of the layers that were made beforehand."""
    factors = np.asarray([0.5, 1.0, 2.0])
    updates = []
    for given in (factors, jnp.asarray(factors, jnp.float32)):
        scaling = aida_jax.scale_by_layerwise(lambda gg, given=given: (1.0, given), layerwise=layerwise)
        updates.append(jax.jit(scaling.update)(tree(seed=1), scaling.init(tree()))[0])
    assert_bitwise(*updates)


def test_a_rule_sees_all_layers_at_once():
    """One may mix them: it is called once, with an entry for each layer of the tree."""
    calls = Counter()

    def mixing(gg, dd):
        calls[gg.shape, dd.shape] += 1
        return gg / (gg.mean() + gg), 1.0

    ours, _ = trained(
        optax.chain(aida_jax.scale_by_layerwise(mixing), optax.scale_by_learning_rate(0.1)),
        tree(),
        [tree(seed=1)],
    )
    assert calls == {((3,), (3,)): 1}
    gg = jnp.stack([jnp.sum(x * x) for x in jax.tree.leaves(tree(seed=1))])
    alpha = gg / (gg.mean() + gg)
    g = tree(seed=1)["scale"]
    v = 0.001 * (0.1 * g - alpha[2] * g) ** 2
    expected = tree()["scale"] - 0.1 * g / jnp.sqrt(v / 0.001 + 1e-5)
    np.testing.assert_allclose(ours["scale"], expected, rtol=1e-5)


def test_a_member_is_its_rule():
    from aida_jax import family

    for rule, name in ((family.BELIEF, "ladabelief-post"), (family.GRADIENT, "ladam-post")):
        own = optax.chain(
            aida_jax.scale_by_layerwise(rule, layerwise="post"), optax.scale_by_learning_rate(1e-2)
        )
        gradients = [tree(seed=t) for t in (1, 2)]
        assert_bitwise(trained(own, tree(), gradients)[0], trained(made(name), tree(), gradients)[0])


def test_coefficients_that_are_not_finite_are_one():
    nan = aida_jax.scale_by_layerwise(lambda gg: (gg * jnp.nan, gg / 0.0))
    belief = aida_jax.scale_by_layerwise((1.0, 1.0))
    ours, _ = nan.update(tree(seed=1), nan.init(tree()))
    expected, _ = belief.update(tree(seed=1), belief.init(tree()))
    assert worst(ours, expected) < 1e-6
