"""Handwritten digits with Aida in JAX: python examples/jax/digits.py (needs aida-jax and scikit-learn)."""

import functools
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

import aida_jax


def data():
    """((images, labels) to train on, and to test on); the same split at every call."""
    images, labels = load_digits(return_X_y=True)
    images, order = (images / 16 - 0.3) / 0.38, np.random.default_rng(0).permutation(len(labels))
    parts = order[:1257], order[1257:]
    return [(images[part].astype(np.float32), labels[part].astype(np.int32)) for part in parts]


def initial(seed, width=64):
    rng = np.random.default_rng(seed)
    sizes = [64, width, 10]
    return [
        {"kernel": jnp.asarray(rng.normal(0, n**-0.5, (n, m)), jnp.float32), "bias": jnp.zeros(m)}
        for n, m in pairwise(sizes)
    ]


def logits(params, x):
    hidden, out = params
    return jax.nn.relu(x @ hidden["kernel"] + hidden["bias"]) @ out["kernel"] + out["bias"]


def batches(seed, size, count=64):
    """Indices of the images of each step of an epoch."""
    order = np.random.default_rng(seed).permutation(size)
    return [order[i : i + count] for i in range(0, size - count + 1, count)]


def train(seed=0, epochs=30, optimizer=None):
    """Accuracy on the test images."""
    (images, labels), (test_images, test_labels) = data()
    optimizer = optimizer or aida_jax.aida(1e-3)
    params = initial(seed)
    state = optimizer.init(params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, x, y):
        def loss(params):
            return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for epoch in range(epochs):
        for index in batches((seed, epoch), len(labels)):
            params, state = step(params, state, images[index], labels[index])
    return float(jnp.mean(jnp.argmax(logits(params, test_images), 1) == test_labels))


if __name__ == "__main__":
    for seed in range(5):
        print(f"seed {seed}: {train(seed):.4f} of the test images")
