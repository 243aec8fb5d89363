"""Both sides take the same steps: the torch side's reference backend is the oracle, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import aida
import aida_jax
from helpers.jax_twins import FORMS, apart, steps, twins

SETTINGS = 100
STEPS = 8
SHAPES = [{"a": (4, 3), "b": (5,), "c": ()}, {"a": (2, 3, 2), "b": (1,)}, {"w": (17,)}]


def drawn(seed):
    """Settings, parameters and gradients, some of them zero or tiny."""
    rng = np.random.default_rng(seed)
    name, own = FORMS[seed % len(FORMS)]
    own = dict(own)
    if "Aida" in name:
        own |= dict(K=int(rng.integers(0, 6)), xi=float(10.0 ** rng.uniform(-20, -4)))
    arguments = dict(
        lr=float(10.0 ** rng.uniform(-4, -1)),
        betas=(
            float(rng.choice([0.0, rng.uniform(0, 0.99)])),
            float(rng.choice([rng.uniform(0, 0.9), 0.999])),
        ),
        eps=float(10.0 ** rng.uniform(-16, -4)),
        decay=float(rng.choice([0.0, 0.1])),
        decoupled=bool(rng.integers(2)),
        rectify=bool(rng.integers(2)),
        **own,
    )
    shapes = SHAPES[seed % len(SHAPES)]
    params = {k: rng.standard_normal(s) for k, s in shapes.items()}
    scales = rng.choice([1.0, 1.0, 1e-9, 1e4, 0.0], size=STEPS)
    gradients = [{k: x * rng.standard_normal(s) for k, s in shapes.items()} for x in scales]
    return name, arguments, params, gradients


def largest_difference(seed, **changed):
    name, arguments, params, gradients = drawn(seed)
    one, other, of_torch = twins(name, params, **arguments)
    if changed:
        _, other, _ = twins(name, params, **{**arguments, **changed})
    ours = {k: jnp.asarray(x) for k, x in params.items()}
    state, update = other.init(ours), other.update  # not compiled: each of the settings would be, anew
    found = 0.0
    for grads in gradients:
        ours, state = steps(one, other, of_torch, ours, state, update, [grads])
        found = max(found, apart(of_torch, ours))
    return found


@pytest.mark.parametrize("seed", range(SETTINGS))
def test_step_by_step_both_sides_agree(seed):
    # Where a rounding of g and m alike is divided by a small eps, 1e-16 becomes more.
    assert largest_difference(seed) < 1e-10, drawn(seed)[:2]


def test_another_b2_is_seen():
    """A negative control, at every seed that moves at all."""
    assert sum(largest_difference(seed, betas=(0.5, 0.7)) > 1e-6 for seed in range(9)) >= 8


@pytest.mark.parametrize(("name", "own"), FORMS)
def test_complex_layers_are_the_same_on_both_sides(name, own):
    rng = np.random.default_rng(0)
    draw = lambda: {"z": rng.standard_normal((3, 2)) + 1j * rng.standard_normal((3, 2))}  # noqa: E731
    params = draw()
    one, other, of_torch = twins(name, params, 1e-2, (0.9, 0.99), **own)
    ours = {k: jnp.asarray(x) for k, x in params.items()}
    ours, _ = steps(
        one, other, of_torch, ours, other.init(ours), jax.jit(other.update), [draw() for _ in range(4)]
    )
    assert apart(of_torch, ours) < 1e-12


def damped(gg, mm, *, power):
    return 1.0, (mm / (mm + gg + 1e-30)) ** power


def test_one_rule_of_ones_own_serves_both_sides():
    from functools import partial

    import optax

    class Damped(aida.Layerwise):
        rule = damped
        own = dict(power=0.5)  # noqa: RUF012

    x = np.random.default_rng(0).standard_normal((4, 3))
    p = torch.nn.Parameter(torch.tensor(x))
    one = Damped([p], lr=1e-2)
    scaling = aida_jax.scale_by_layerwise(partial(damped, power=0.5))
    other = optax.chain(scaling, optax.scale_by_learning_rate(1e-2))
    ours, state = jnp.asarray(x), other.init(jnp.asarray(x))
    for _ in range(5):
        p.grad = torch.sin(p.detach())
        one.step()
        updates, state = other.update(jnp.sin(ours), state)
        ours = optax.apply_updates(ours, updates)
    np.testing.assert_allclose(ours, p.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize(("name", "own"), FORMS)
def test_bfloat16_parameters_have_the_same_moments(name, own):
    """Both keep float32 moments; updates are rounded in other places, so that parameters are near."""
    rng = np.random.default_rng(0)
    params = {"a": rng.standard_normal((8, 4)).astype(np.float32)}
    p = torch.nn.Parameter(torch.tensor(params["a"]).bfloat16())
    one = getattr(aida, name)([p], lr=1e-2, foreach=False, **own)
    function = {"AdamPlus": "adam_plus"}.get(name, name.lower())
    other = getattr(aida_jax, f"scale_by_{function}")(**own)
    state = other.init(jnp.asarray(params["a"], jnp.bfloat16))
    for _ in range(3):
        g = rng.standard_normal((8, 4)).astype(np.float32)
        p.grad = torch.tensor(g).bfloat16()
        one.step()
        _, state = other.update(jnp.asarray(g, jnp.bfloat16), state)
    of_p = one.state[p]
    np.testing.assert_allclose(state.mu, of_p["exp_avg"].numpy(), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(state.nu, of_p["exp_avg_var"].numpy(), rtol=1e-4, atol=1e-9)
