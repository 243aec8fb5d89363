"""A small model on both sides, torch's and jax's, of one float64 loss."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

LR, BETAS = 1e-2, (0.8, 0.99)
X = np.random.default_rng(0).standard_normal((16, 5))


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 4), torch.nn.Tanh()
    ).double()


def to_tree(named):
    """Kernels transposed, as flax has them, and the second layer first."""
    return {
        "second": {"kernel": named["2.weight"].T, "bias": named["2.bias"]},
        "first": {"kernel": named["0.weight"].T, "bias": named["0.bias"]},
    }


def from_tree(tree):
    parts = {"0": tree["first"], "2": tree["second"]}
    kernels = {f"{k}.weight": x["kernel"].T for k, x in parts.items()}
    return kernels | {f"{k}.bias": x["bias"] for k, x in parts.items()}


def apply(tree, x):
    for name in ("first", "second"):
        x = jnp.tanh(x @ tree[name]["kernel"] + tree[name]["bias"])
    return jnp.mean((x - 1) ** 2)


def arrays(net):
    return {name: p.detach().numpy().copy() for name, p in net.named_parameters()}


def train_torch(net, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        ((net(torch.tensor(X)) - 1) ** 2).mean().backward()
        optimizer.step()


def train_jax(optimizer, params, state, steps):
    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.grad(apply)(params, X), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def assert_same(net, params, limit=1e-11):
    for name, x in from_tree(params).items():
        np.testing.assert_allclose(x, arrays(net)[name], rtol=0, atol=limit, err_msg=name)
