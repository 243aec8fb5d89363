"""Members in the libraries that JAX users have: flax, equinox, orbax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import aida_jax
from helpers.jax_members import assert_bitwise, every_member, made, trained, worst

X = np.random.default_rng(0).standard_normal((8, 3)).astype(np.float32)
Y = np.random.default_rng(1).standard_normal((8, 2)).astype(np.float32)


@every_member
def test_an_nnx_model(name):
    pytest.importorskip("flax", minversion="0.11")
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.first, self.second = nnx.Linear(3, 5, rngs=rngs), nnx.Linear(5, 2, rngs=rngs)

        def __call__(self, x):
            return self.second(jnp.tanh(self.first(x)))

    def loss(model):
        return jnp.mean((model(X) - Y) ** 2)

    model = Model(nnx.Rngs(0))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    graph = nnx.graphdef(model)
    of_params = jax.jit(jax.grad(lambda p: loss(nnx.merge(graph, nnx.State(p)))))
    optimizer = nnx.Optimizer(model, made(name), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(loss)(model))

    alone = made(name)
    state = alone.init(params)
    for _ in range(3):
        step(model, optimizer)
        params, state = trained(alone, params, [of_params(params)], state)
    assert worst(nnx.to_pure_dict(nnx.state(model, nnx.Param)), params) < 1e-5


@every_member
def test_an_equinox_model(name):
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(3, 2, 5, 1, key=jax.random.key(0))
    optimizer = made(name)
    state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state):
        grads = eqx.filter_grad(lambda m: jnp.mean((jax.vmap(m)(X) - Y) ** 2))(model)
        updates, state = optimizer.update(grads, state, eqx.filter(model, eqx.is_inexact_array))
        return eqx.apply_updates(model, updates), state

    before = jnp.mean((jax.vmap(model)(X) - Y) ** 2)
    for _ in range(20):
        model, state = step(model, state)
    assert jnp.mean((jax.vmap(model)(X) - Y) ** 2) < before
    rows = aida_jax.layer_stepsizes(state, eqx.filter(model, eqx.is_inexact_array), optimizer=optimizer)
    assert [row["parameter"] for row in rows] == [
        "layers/0/weight",
        "layers/0/bias",
        "layers/1/weight",
        "layers/1/bias",
    ]


def test_a_flax_model_whose_blocks_are_scanned():
    linen = pytest.importorskip("flax.linen")

    class Block(linen.Module):
        @linen.compact
        def __call__(self, x, _):
            return x + linen.Dense(3)(jnp.tanh(x)), None

    class Model(linen.Module):
        @linen.compact
        def __call__(self, x):
            scanned = linen.scan(Block, variable_axes={"params": 0}, split_rngs={"params": True}, length=4)
            return scanned(name="blocks")(x, None)[0]

    params = Model().init(jax.random.key(0), X)
    optimizer = aida_jax.aida(1e-2, layers=lambda path: int("/blocks/" in f"/{path}"))
    grads = jax.grad(lambda p: jnp.mean(Model().apply(p, X) ** 2))(params)
    ours, _ = trained(optimizer, params, [grads, grads])
    kernel = lambda tree: tree["params"]["blocks"]["Dense_0"]["kernel"]  # noqa: E731
    for i in range(4):
        expected, _ = trained(aida_jax.aida(1e-2), kernel(params)[i], [kernel(grads)[i]] * 2)
        assert worst(kernel(ours)[i], expected) < 1e-6


@every_member
def test_an_orbax_checkpoint_goes_on_bitwise(name, tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    rng = np.random.default_rng(2)
    tree = lambda: {"w": jnp.asarray(rng.standard_normal((4, 3)), jnp.float32)}  # noqa: E731
    gradients = [tree() for _ in range(4)]
    optimizer, start = made(name, optax.linear_schedule(1e-2, 0.0, 10)), tree()
    params, state = trained(optimizer, start, gradients[:2])
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "at2", {"params": params, "state": state})
        checkpointer.wait_until_finished()
        like = {"params": start, "state": optimizer.init(start)}
        restored = checkpointer.restore(tmp_path / "at2", jax.tree.map(jnp.zeros_like, like))
    assert_bitwise((restored["params"], restored["state"]), (params, state))
    assert isinstance(restored["state"][0], aida_jax.ScaleByAidaState)
    ours = trained(optimizer, restored["params"], gradients[2:], restored["state"])
    assert_bitwise(ours, trained(optimizer, params, gradients[2:], state))
