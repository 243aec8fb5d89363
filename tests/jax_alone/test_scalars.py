"""A step's scalars in float32 are those of float64, at the first step and at the millionth."""

import jax.numpy as jnp
import numpy as np
import pytest

from aida_jax import family
from aida_jax.scalars import rectified_length, step_scalars

COUNTS = [1, 2, 3, 5, 6, 7, 10, 30, 100, 299, 301, 1000, 3000, 10_000, 1_000_000, 2**31 - 1]
RATES = [0.0, 0.3, 0.9, 0.95, 0.99, 0.999, 0.9999]


def exact(t, b2, rectify):
    """In long double, whose cancellation leaves enough."""
    given = dict(lr=1, b1=np.longdouble(0.9), b2=np.longdouble(b2), eps=1e-8, eps_out=1e-8)
    return family.step_scalars(np.longdouble(t), rectify=rectify, **given)


@pytest.mark.parametrize("b2", RATES)
@pytest.mark.parametrize("rectify", [False, True])
def test_in_float32_to_its_precision(b2, rectify):
    for t in COUNTS:
        ours = step_scalars(jnp.asarray(t, jnp.int32), b1=0.9, b2=b2, eps=1e-8, eps_out=1e-8, rectify=rectify)
        for x, y in zip(ours, exact(t, b2, rectify), strict=True):
            assert jnp.result_type(x) == jnp.float32
            np.testing.assert_allclose(float(x), float(y), rtol=3e-6, err_msg=f"step {t}")


@pytest.mark.parametrize("b2", RATES[1:])
def test_in_float64_to_its_precision(b2, double):
    for t in COUNTS:
        ours = step_scalars(jnp.asarray(t, jnp.int32), b1=0.9, b2=b2, eps=1e-8, eps_out=1e-8, rectify=False)
        for x, y in zip(ours, exact(t, b2, False), strict=True):
            np.testing.assert_allclose(float(x), float(y), rtol=1e-13, err_msg=f"step {t}")


@pytest.mark.parametrize("b2", [0.9, 0.99, 0.999])
def test_with_a_b2_that_is_an_array(b2):
    """As inject_hyperparams gives it: 1 - b2 is then exact to float32's b2 alone."""
    held = float(np.float32(b2))
    for t in COUNTS:
        t_ = jnp.asarray(t, jnp.float32)
        ours = rectified_length(jnp.asarray(b2, jnp.float32), t_)
        np.testing.assert_allclose(ours, rectified_length(held, t_), rtol=1e-4)


def test_the_naive_form_is_worse():
    """A negative control: 1 - b2^t as it is written is wrong in the fifth digit at the first step."""
    naive = 1 - jnp.asarray(0.999, jnp.float32) ** jnp.asarray(1.0)
    assert abs(float(naive) / 0.001 - 1) > 1e-5
