"""Sharded parameters on eight devices of the CPU: sums of whole layers, in as few messages as can be."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import aida_jax
from helpers.jax_members import assert_bitwise, every_member, made, trained, worst

try:
    from jax import shard_map
except ImportError:  # jax 0.4 and 0.5
    from jax.experimental.shard_map import shard_map

# Split along both axes, along one of them, along none; and experts, a row each, which are on different
# devices and there whole, or split once more.
SPECS = {"both": P("data", "model"), "one": P(None, "model"), "bias": P("data"), "whole": P(),
         "experts": P("data"), "experts_split": P("data", None, "model")}  # fmt: skip
AXES = {"both": ("data", "model"), "one": ("model",), "bias": ("data",), "whole": (),
        "experts": (), "experts_split": ("model",)}  # fmt: skip
SHAPES = {"both": (8, 6), "one": (5, 4), "bias": (12,), "whole": (3,),
          "experts": (8, 3, 2), "experts_split": (4, 3, 6)}  # fmt: skip
# This jax does not tell what varies, and takes a layer for a split one where it has met one.
UNCHECKED = {} if hasattr(jax, "typeof") else {"check_rep": False}


def experts(path):
    return int("experts" in path)


def numbers(seed):
    rng = np.random.default_rng(seed)
    return {name: jnp.asarray(rng.standard_normal(s), jnp.float32) for name, s in SHAPES.items()}


GRADIENTS = [numbers(seed) for seed in range(1, 4)]


@pytest.fixture(scope="module")
def mesh():
    return Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "model"))


@pytest.fixture(scope="module")
def line():
    return Mesh(np.array(jax.devices()), ("data",))


@pytest.fixture(params=["split as the compiler likes", "split as types say"])
def any_mesh(request, mesh):
    """And, in newer versions of jax, the mesh that jax.make_mesh makes."""
    if "types" not in request.param:
        return mesh
    if not hasattr(jax.sharding, "reshard"):
        pytest.skip("this jax has no such types")
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)


def placed(tree, mesh, specs):
    return jax.tree.map(lambda x, spec: jax.device_put(x, NamedSharding(mesh, spec)), tree, specs)


def messages(compiled):
    """Collectives in the compiled program."""
    kinds = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"
    return re.findall(rf" ({kinds})(?:-start)?\(", compiled.as_text())


def assert_replicas_are_bitwise_equal(tree):
    for leaf in jax.tree.leaves(tree):
        pieces: dict = {}
        for shard in leaf.addressable_shards:
            pieces.setdefault(str(shard.index), []).append(np.asarray(shard.data))
        for first, *others in pieces.values():
            for other in others:
                np.testing.assert_array_equal(first, other)


def steps_that_it_needs(name):
    """Of messages: the sums, then, for "post", the stepsizes."""
    optimizer = made(name)
    settings = optimizer.settings
    sums = callable(settings.rule) or settings.layerwise == "pre"
    return int(sums) + int(settings.layerwise == "post")


@every_member
@pytest.mark.parametrize("layers", [None, experts], ids=["leaves", "experts"])
def test_jit_steps_sharded_parameters_as_whole_ones(name, layers, any_mesh):
    optimizer = made(name, layers=layers)
    params = placed(numbers(0), any_mesh, SPECS)
    ours, state = trained(optimizer, params, [placed(g, any_mesh, SPECS) for g in GRADIENTS])
    expected, _ = trained(optimizer, numbers(0), GRADIENTS)
    assert worst(ours, expected) < 1e-6
    assert all(ours[k].sharding.is_equivalent_to(params[k].sharding, ours[k].ndim) for k in SHAPES)
    assert_replicas_are_bitwise_equal((ours, state))


@pytest.mark.skipif(jax.__version_info__ < (0, 7), reason="its compiler joins messages on accelerators alone")
@every_member
def test_jit_sends_one_message_for_all_layers(name, line):
    """The compiler joins the layers' sums; more than it needs would be one for each layer."""
    optimizer = made(name)
    specs = {**dict.fromkeys(SHAPES, P(None)), "both": P("data")}
    params = placed({**numbers(0), "more": numbers(1)["both"]}, line, {**specs, "more": P("data")})
    state = optimizer.init(params)
    found = messages(jax.jit(optimizer.update).lower(params, state, params).compile())
    assert found == ["all-reduce"] * steps_that_it_needs(name)


def in_shard_map(name, mesh, names=tuple(SHAPES)):
    optimizer = made(name, axis_name=lambda path: AXES[path.split("/")[-1]], layers=experts)
    specs = {k: SPECS[k] for k in names}
    # Members with one v per layer have the whole of it everywhere, but of experts.
    of_v = {k: P("data") if experts(k) else P() for k in names}
    pooled = optimizer.settings.layerwise == "pre"
    own = aida_jax.ScaleByAidaState(P(), specs, of_v if pooled else specs)
    of_state = (own, *optimizer.init(some(numbers(0), names))[1:])

    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    ins, outs = (specs, of_state, specs), (specs, of_state)
    compiled = jax.jit(shard_map(step, mesh=mesh, in_specs=ins, out_specs=outs, **UNCHECKED))
    state = optimizer.init(some(numbers(0), names))
    return compiled, placed(state, mesh, of_state)


def some(tree, names):
    return {name: tree[name] for name in names}


@every_member
@pytest.mark.parametrize(
    "names",
    [tuple(SHAPES), ("experts", "whole")],
    ids=["all", "experts beside a whole one"],
)
def test_shard_map_steps_pieces_as_whole_layers(name, names, any_mesh):
    """Whatever leaves are beside one another; and what is the same on every device stays so."""
    step, state = in_shard_map(name, any_mesh, names)
    gradients = [some(grads, names) for grads in GRADIENTS]
    params, *given = [placed(x, any_mesh, some(SPECS, names)) for x in (some(numbers(0), names), *gradients)]
    for grads in given:
        params, state = step(params, state, grads)
    expected, other = trained(made(name, layers=experts), some(numbers(0), names), gradients)
    assert worst(params, expected) < 1e-6
    assert worst(state[0].nu, other[0].nu) < 1e-5
    assert_replicas_are_bitwise_equal((params, state))


@every_member
def test_shard_map_sends_one_message_for_each_set_of_axes(name, mesh):
    step, state = in_shard_map(name, mesh, names := ("both", "whole", "experts"))
    params = some(numbers(0), names)
    found = messages(step.lower(params, state, params).compile())
    assert found == ["all-reduce"] * steps_that_it_needs(name)
    step, state = in_shard_map(name, mesh)
    found = messages(step.lower(numbers(0), state, numbers(0)).compile())
    sets = {axes for axes in AXES.values() if axes}
    assert found == ["all-reduce"] * (len(sets) * steps_that_it_needs(name))


def test_without_axis_names_pieces_would_be_layers(line):
    """A negative control: () makes them that, and the step is another one."""
    params = {"kernel": numbers(0)["both"]}
    grads = {"kernel": numbers(1)["both"]}

    def second_updates(axis_name):
        optimizer = aida_jax.scale_by_aida(axis_name=axis_name)

        def both(first, second):  # at the first step g and m are parallel, whatever a layer is
            _, state = optimizer.update(first, optimizer.init(first))
            return optimizer.update(second, state)[0]

        mapped = shard_map(both, mesh=line, in_specs=P("data"), out_specs=P("data"))
        return jax.jit(mapped)(grads, {"kernel": numbers(2)["both"]})

    whole = aida_jax.scale_by_aida()
    _, state = whole.update(grads, whole.init(params))
    expected = whole.update({"kernel": numbers(2)["both"]}, state)[0]
    assert worst(second_updates("data"), expected) < 1e-6
    assert worst(second_updates(()), expected) > 1e-2


@pytest.mark.skipif(not hasattr(jax, "typeof"), reason="this jax does not know what varies")
def test_a_split_layer_without_axis_names_is_refused(line):
    optimizer = aida_jax.scale_by_aida()
    grads = {"kernel": numbers(1)["both"]}
    update = lambda g: optimizer.update(g, optimizer.init(g))[0]  # noqa: E731
    step = shard_map(update, mesh=line, in_specs=P("data"), out_specs=P("data"))
    with pytest.raises(ValueError, match=r"leaf 'kernel' differs along 'data' .* axis_name='data'"):
        step(grads)


def test_gradients_that_are_averaged_need_no_axis_names(line):
    """Data parallelism: every device has whole layers."""
    optimizer = aida_jax.aida(1e-2)

    def step(params, state, x):
        grads = jax.grad(lambda p: jnp.sum((x @ p["kernel"]) ** 2))(params)
        grads = jax.lax.pmean(grads, "data")
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = {"kernel": numbers(0)["both"]}
    x = jnp.ones((16, 8))
    state = optimizer.init(params)
    mapped = shard_map(step, mesh=line, in_specs=(P(), P(), P("data")), out_specs=(P(), P()))
    ours, new = jax.jit(mapped)(params, state, x)
    assert_replicas_are_bitwise_equal((ours, new))
    assert int(new[0].count) == 1


@pytest.mark.parametrize("layers", [None, experts], ids=["leaves", "experts"])
@pytest.mark.parametrize("name", ["aida", "laida-pre"])
def test_rows_of_sharded_layers_are_those_of_whole_ones(name, layers, any_mesh):
    optimizer = made(name, layers=layers)
    sharded = placed(numbers(0), any_mesh, SPECS)
    ours, state = trained(optimizer, sharded, [placed(g, any_mesh, SPECS) for g in GRADIENTS])
    params, other = trained(optimizer, numbers(0), GRADIENTS)
    grads = placed(GRADIENTS[-1], any_mesh, SPECS)
    rows = aida_jax.layer_stepsizes(state, ours, grads, optimizer=optimizer)
    expected = aida_jax.layer_stepsizes(other, params, GRADIENTS[-1], optimizer=optimizer)
    for row, of_whole in zip(rows, expected, strict=True):
        for key in ("parameter", "numel", "layer", "step"):
            assert row[key] == of_whole[key]
        assert sum(row["histogram"]["counts"]) == sum(of_whole["histogram"]["counts"])
        np.testing.assert_allclose(row["p50"], of_whole["p50"], rtol=0.02)
        np.testing.assert_allclose(row["std"], of_whole["std"], rtol=2e-5, atol=1e-5 * of_whole["mean"])
        for key in ("mean", "min", "max", "cos", "g_norm", "residual", "update_ratio"):
            np.testing.assert_allclose(row[key], of_whole[key], rtol=2e-5, err_msg=key)


def test_initial_state_is_placed_as_the_parameters(mesh):
    params = placed(numbers(0), mesh, SPECS)
    state = aida_jax.scale_by_aida().init(params)
    for name in SHAPES:
        assert state.mu[name].sharding.is_equivalent_to(params[name].sharding, params[name].ndim)
    assert_bitwise(state.mu, jax.tree.map(jnp.zeros_like, numbers(0)))
