"""What a record of layer_stepsizes costs beside a training step of a small GPT: python benchmarks/jax_rows.py

Seconds of the process's CPUs, so that what else the machine does does not count; compiling is left out.
"""

import importlib.util
import time
from pathlib import Path

import jax
import optax
from flax import nnx

import aida_jax

SPEC = importlib.util.spec_from_file_location(
    "gpt", Path(__file__).parents[1] / "examples" / "jax" / "gpt.py"
)
gpt = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(gpt)


def main(steps=30, records=10, every=100):
    graph, params = nnx.split(gpt.Gpt(nnx.Rngs(0)), nnx.Param)
    params = nnx.to_pure_dict(params)
    optimizer = aida_jax.aida(1e-3)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, x, y):
        def loss(params):
            logits = nnx.merge(graph, nnx.State(params))(x)
            return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        grads = jax.grad(loss)(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, grads

    def train():
        nonlocal params, state, grads
        params, state, grads = jax.block_until_ready(step(params, state, *gpt.batch(0, 1)))

    def record():
        rows = aida_jax.layer_stepsizes(state, params, grads, optimizer=optimizer)
        aida_jax.monitor.record(rows, run="benchmark")

    def seconds(function, times):
        function()
        start = time.process_time()
        for _ in range(times):
            function()
        return (time.process_time() - start) / times

    grads = None
    of_step, of_record = seconds(train, steps), seconds(record, records)
    count = sum(x.size for x in jax.tree.leaves(params))
    print(f"{count} parameters: a step {1e3 * of_step:.1f} ms of CPU, a record {1e3 * of_record:.1f} ms, "
          f"every={every}: {of_record / every / of_step:.2%} of training")  # fmt: skip


if __name__ == "__main__":
    main()
