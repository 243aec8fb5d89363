"""Four functions to minimize, each (first parameters, their optimum, f)."""

import jax.numpy as jnp


def parabola(dtype):
    goal = jnp.asarray([1.0, -1.0, 1.0], dtype)
    return jnp.asarray([-1.0, 10.0, 1.0], dtype), goal, lambda p: jnp.sum((p - goal) ** 2)


def rosenbrock(dtype):
    def f(p):
        return (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2

    return jnp.zeros(2, dtype), jnp.ones(2, dtype), f


def matrix(dtype):
    goal = jnp.asarray([[3.0, -2.0], [1.0, 4.0]], dtype)
    return jnp.zeros((2, 2), dtype), goal, lambda p: jnp.sum((p - goal) ** 2)


def mixed(dtype):
    goal = (jnp.asarray([1.0, -1.0, 2.0], dtype), jnp.asarray([[1.0, 0.0], [-1.0, 1.0]], dtype))
    first = (jnp.zeros(3, dtype), jnp.zeros((2, 2), dtype))
    return first, goal, lambda p: sum(jnp.sum((x - y) ** 2) for x, y in zip(p, goal, strict=True))


TARGETS = {"parabola": parabola, "rosenbrock": rosenbrock, "matrix": matrix, "mixed": mixed}
