"""A small GPT in flax with Aida, on Python's own language reference: python examples/jax/gpt.py

It writes each layer's stepsizes to stepsizes.jsonl, which `aida stepsizes stepsizes.jsonl` draws.
"""

from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import aida_jax

TEXT = np.frombuffer("\n".join(topics[key] for key in sorted(topics)).encode("ascii", "replace"), np.uint8)
CONTEXT, DIM, HEADS, LAYERS = 64, 64, 4, 2


def linear(inputs, outputs, std, rngs):
    return nnx.Linear(inputs, outputs, kernel_init=nnx.initializers.normal(std), rngs=rngs)


class Block(nnx.Module):
    def __init__(self, rngs):
        self.first, self.second = (nnx.LayerNorm(DIM, epsilon=1e-5, rngs=rngs) for _ in range(2))
        last = 0.02 / (2 * LAYERS) ** 0.5  # of what ends a residual branch
        self.qkv, self.up = (linear(DIM, n * DIM, 0.02, rngs) for n in (3, 4))
        self.out, self.down = (linear(n * DIM, DIM, last, rngs) for n in (1, 4))

    def __call__(self, x):
        q, k, v = (y.reshape(*y.shape[:2], HEADS, -1) for y in jnp.split(self.qkv(self.first(x)), 3, -1))
        x = x + self.out(jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape))
        return x + self.down(jax.nn.gelu(self.up(self.second(x)), approximate=False))


class Gpt(nnx.Module):
    def __init__(self, rngs):
        std = nnx.initializers.normal(0.02)
        self.tokens = nnx.Embed(128, DIM, embedding_init=std, rngs=rngs)
        self.places = nnx.Embed(CONTEXT, DIM, embedding_init=std, rngs=rngs)
        for i in range(LAYERS):
            setattr(self, f"block{i}", Block(rngs))
        self.norm = nnx.LayerNorm(DIM, epsilon=1e-5, rngs=rngs)

    def __call__(self, tokens):
        x = self.tokens(tokens) + self.places(jnp.arange(CONTEXT))
        for i in range(LAYERS):
            x = getattr(self, f"block{i}")(x)
        return self.tokens.attend(self.norm(x))


def batch(seed, step, size=16):
    starts = np.random.default_rng((seed, step)).integers(0, len(TEXT) - CONTEXT - 1, size)
    pieces = TEXT[starts[:, None] + np.arange(CONTEXT + 1)].astype(np.int32)
    return pieces[:, :-1], pieces[:, 1:]


def train(seed=0, steps=300, every=100, sink=None, params=None):
    """Mean loss of the last 20 steps, in nats a byte. params: the first ones. Default: drawn by the seed."""
    graph, drawn = nnx.split(Gpt(nnx.Rngs(seed)), nnx.Param)
    params = nnx.to_pure_dict(drawn) if params is None else params
    optimizer = aida_jax.aida(
        optax.warmup_cosine_decay_schedule(0.0, 3e-3, steps // 10, steps), weight_decay=0.01
    )
    state, run, losses = optimizer.init(params), aida_jax.monitor.new_run("aida"), []

    @jax.jit
    def step(params, state, x, y):
        def loss(params):
            logits = nnx.merge(graph, nnx.State(params))(x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value, grads

    for t in range(1, steps + 1):
        params, state, value, grads = step(params, state, *batch(seed, t))
        losses.append(value)
        if sink and (t == 1 or t % every == 0):
            rows = aida_jax.layer_stepsizes(state, params, grads, optimizer=optimizer)
            sink.write(aida_jax.monitor.record(rows, run=run))
    return float(np.mean(losses[-20:]))


if __name__ == "__main__":
    print(f"{train(sink=aida_jax.monitor.JSONL('stepsizes.jsonl')):.3f} nats a byte")
