"""The members of aida_jax that its tests run over, and the small things they share; without torch."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import aida_jax

# Every member in each of its forms: by name, (function, its own arguments).
MEMBERS = {
    "adam_plus": (aida_jax.adam_plus, {}),
    "adabelief": (aida_jax.adabelief, {}),
    "ladam-pre": (aida_jax.ladam, {}),
    "ladam-post": (aida_jax.ladam, {"layerwise": "post"}),
    "ladabelief-pre": (aida_jax.ladabelief, {}),
    "ladabelief-post": (aida_jax.ladabelief, {"layerwise": "post"}),
    "aida": (aida_jax.aida, {}),
    "aida-K0": (aida_jax.aida, {"K": 0}),
    "aida-K1": (aida_jax.aida, {"K": 1}),
    "aida-K3": (aida_jax.aida, {"K": 3, "xi": 1e-6}),
    "laida-pre": (aida_jax.laida, {}),
    "laida-post": (aida_jax.laida, {"layerwise": "post", "K": 3}),
}

# The others take minutes more: `make test-jax JAX_TESTS="-m 'slow or not slow'"` runs them too.
FIRST = ("adabelief", "ladam-post", "aida", "laida-pre")
every_member = pytest.mark.parametrize(
    "name", [name if name in FIRST else pytest.param(name, marks=pytest.mark.slow) for name in MEMBERS]
)


def made(name, learning_rate=1e-2, **more):
    function, own = MEMBERS[name]
    return function(learning_rate, **own, **more)


def tree(dtype=jnp.float32, seed=0, scale=1.0):
    """Normal numbers in a small tree, the same at every call with the same arguments."""
    rng = np.random.default_rng(seed)
    shapes = {"dense": {"kernel": (4, 3), "bias": (3,)}, "scale": ()}
    is_shape = lambda x: isinstance(x, tuple)  # noqa: E731
    return jax.tree.map(
        lambda s: jnp.asarray(scale * rng.standard_normal(s), dtype), shapes, is_leaf=is_shape
    )


def trained(optimizer, params, gradients, state=None):
    """(params, state) after a compiled step for each of the gradients."""

    @jax.jit
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params) if state is None else state
    for grads in gradients:
        params, state = step(params, state, grads)
    return params, state


def worst(a, b):
    """The largest difference of two trees, as a part of the largest element of each leaf of b."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    found = [0.0]
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = (np.asarray(z, np.complex128 if np.iscomplexobj(z) else np.float64) for z in (x, y))
        assert x.shape == y.shape
        if y.size:
            off = np.abs(x - y).max() / max(np.abs(y).max(), 1e-300)
            found.append(np.inf if np.isnan(off) else off)
    return max(found)


def assert_bitwise(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
