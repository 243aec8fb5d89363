"""Members inside what optax and jax put around an optimizer."""

import re
from collections import Counter, OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import aida_jax
from helpers.jax_members import assert_bitwise, every_member, made, trained, tree, worst

GRADIENTS = [tree(seed=t) for t in range(1, 4)]
KERNEL = {"dense": {"kernel": True, "bias": False}, "scale": False}


@every_member
def test_masked_leaves_pass_by(name):
    optimizer = optax.masked(made(name), KERNEL)
    updates, _ = jax.jit(optimizer.update)(GRADIENTS[0], optimizer.init(tree()), tree())
    alone = made(name)
    kernel = {"dense": {"kernel": GRADIENTS[0]["dense"]["kernel"]}}
    expected, _ = alone.update(kernel, alone.init(kernel), kernel)
    np.testing.assert_allclose(updates["dense"]["kernel"], expected["dense"]["kernel"], rtol=1e-5)
    assert_bitwise(updates["scale"], GRADIENTS[0]["scale"])


@every_member
def test_partition_gives_each_part_its_own(name):
    labels = jax.tree.map(lambda decays: "a" if decays else "b", KERNEL)
    optimizer = optax.multi_transform({"a": made(name, 1e-2), "b": optax.sgd(0.5)}, labels)
    params, _ = trained(optimizer, tree(), GRADIENTS)
    sgd, _ = trained(optax.sgd(0.5), tree(), GRADIENTS)
    kernel = lambda t: {"kernel": t["dense"]["kernel"]}  # noqa: E731
    own, _ = trained(made(name, 1e-2), kernel(tree()), [kernel(g) for g in GRADIENTS])
    assert worst(params["dense"]["kernel"], own["kernel"]) < 1e-6
    assert worst(params["dense"]["bias"], sgd["dense"]["bias"]) < 1e-6


def test_a_step_that_is_not_finite_is_left_out():
    optimizer = optax.apply_if_finite(made("aida"), max_consecutive_errors=3)
    bad = jax.tree.map(lambda x: x * jnp.nan, GRADIENTS[1])
    params, state = trained(optimizer, tree(), [GRADIENTS[0], bad, GRADIENTS[2]])
    expected, _ = trained(made("aida"), tree(), [GRADIENTS[0], GRADIENTS[2]])
    assert worst(params, expected) < 1e-6
    assert int(state.total_notfinite) == 1


def test_clipping_comes_before_in_a_chain():
    optimizer = optax.chain(optax.clip_by_global_norm(1e-3), made("aida"))
    norm = jnp.sqrt(sum(jnp.sum(x * x) for x in jax.tree.leaves(GRADIENTS[0])))
    small = jax.tree.map(lambda x: x * (1e-3 / norm), GRADIENTS[0])
    ours, _ = trained(optimizer, tree(), GRADIENTS[:1])
    expected, _ = trained(made("aida"), tree(), [small])
    assert worst(ours, expected) < 1e-6


@every_member
def test_coupled_decay_comes_before_in_a_chain(name):
    optimizer = optax.chain(optax.add_decayed_weights(0.1), made(name))
    params, _ = trained(optimizer, tree(), GRADIENTS[:1])
    decayed = jax.tree.map(lambda g, p: g + 0.1 * p, GRADIENTS[0], tree())
    expected, _ = trained(made(name), tree(), [decayed])
    assert worst(params, expected) < 1e-6


@every_member
def test_vmap_steps_every_model_as_alone(name):
    optimizer = made(name)
    several = [tree(seed=10 + i) for i in range(3)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *several)
    grads = [
        jax.tree.map(lambda *x: jnp.stack(x), *[tree(seed=t + 20 * i) for i in range(3)]) for t in (1, 2)
    ]
    state = jax.vmap(optimizer.init)(stacked)
    for g in grads:
        updates, state = jax.jit(jax.vmap(optimizer.update))(g, state, stacked)
        stacked = optax.apply_updates(stacked, updates)
    for i, params in enumerate(several):
        expected, _ = trained(optimizer, params, [tree(seed=t + 20 * i) for t in (1, 2)])
        assert worst(jax.tree.map(lambda x, i=i: x[i], stacked), expected) < 1e-6


@every_member
@pytest.mark.parametrize(
    "empty", [{}, [], None, {"a": jnp.zeros((0, 3))}], ids=["dict", "list", "None", "rows"]
)
def test_trees_without_elements_are_stepped(name, empty):
    optimizer = made(name)
    updates, state = jax.jit(optimizer.update)(empty, optimizer.init(empty), empty)
    assert jax.tree.structure(updates) == jax.tree.structure(empty)
    assert int(state[0].count) == 1
    assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(state))


@every_member
def test_an_empty_leaf_does_not_change_the_others(name):
    optimizer, more = made(name), {"none": jnp.zeros((0, 2))}
    ours, _ = trained(optimizer, {**tree(), **more}, [{**g, **more} for g in GRADIENTS])
    expected, _ = trained(optimizer, tree(), GRADIENTS)
    assert worst({k: ours[k] for k in expected}, expected) < 1e-6


@every_member
def test_buffers_can_be_donated(name):
    optimizer = made(name)

    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, state = tree(), optimizer.init(tree())
    donating = jax.jit(step, donate_argnums=(0, 1))
    for grads in GRADIENTS:
        before = params
        params, state = donating(params, state, grads)
        assert before["dense"]["kernel"].is_deleted()
    assert_bitwise(params, trained(optimizer, tree(), GRADIENTS)[0])


def test_a_learning_rate_that_changes_compiles_nothing():
    traces = Counter()

    @jax.jit
    def step(params, state, grads, lr):
        traces["step"] += 1
        updates, state = aida_jax.aida(lr).update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params, state = tree(), made("aida").init(tree())
    for lr in (1e-2, 1e-3, 0.0):
        params, state = step(params, state, GRADIENTS[0], lr)
    assert traces["step"] == 1


def test_an_optimizer_steps_in_a_loop_that_is_compiled():
    optimizer = made("aida")
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *GRADIENTS)

    def step(carry, grads):
        params, state = carry
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (tree(), optimizer.init(tree())), stacked)
    assert worst(params, trained(optimizer, tree(), GRADIENTS)[0]) < 1e-6


@every_member
def test_a_step_can_be_differentiated(name, double):
    """As meta-learning does: against finite differences, through two steps."""
    optimizer = made(name, eps=1e-3)

    def after(scale):
        params = {"w": jnp.asarray([0.5, -1.0, 2.0]) * scale}
        state = optimizer.init(params)
        for _ in range(2):
            grads = jax.tree.map(lambda p: jnp.sin(3 * p), params)
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return jnp.sum(params["w"] ** 2)

    exact = (after(1 + 1e-6) - after(1 - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(after)(1.0), exact, rtol=1e-6)


def test_counters_stay_at_their_largest():
    optimizer = aida_jax.scale_by_aida()
    state = optimizer.init(tree())._replace(count=jnp.asarray(2**31 - 1, jnp.int32))
    updates, state = optimizer.update(GRADIENTS[0], state)
    assert int(state.count) == 2**31 - 1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(updates))


def test_a_wrong_argument_is_refused_with_its_name_and_range():
    for error, match, make in (
        (ValueError, r"Invalid b1: 1.0; it must be in \[0, 1\)", lambda: aida_jax.aida(1e-3, b1=1.0)),
        (ValueError, r"Invalid b2: -0.1", lambda: aida_jax.ladam(1e-3, b2=-0.1)),
        (ValueError, r"Invalid eps: 0.0; it must be above 0", lambda: aida_jax.adam_plus(1e-3, eps=0.0)),
        (ValueError, r"Invalid eps: nan", lambda: aida_jax.adam_plus(1e-3, eps=float("nan"))),
        (ValueError, r"Invalid xi: 0; it must be above 0", lambda: aida_jax.aida(1e-3, xi=0)),
        (ValueError, r"Invalid K: 65; it must be an integer from 0 to 64", lambda: aida_jax.aida(1e-3, K=65)),
        (TypeError, r"K is 2.0; it must be a Python integer", lambda: aida_jax.aida(1e-3, K=2.0)),
        (ValueError, "Invalid layerwise: 'mid'", lambda: aida_jax.aida(1e-3, layerwise="mid")),
        (ValueError, "Invalid layerwise: None; .* adam_plus", lambda: aida_jax.ladam(1e-3, layerwise=None)),
        (ValueError, "Invalid weight_decay: -1.0; it must be 0 or above",
         lambda: aida_jax.aida(1e-3, weight_decay=-1.0)),
        (ValueError, "Invalid learning_rate: nan; it must be finite", lambda: aida_jax.aida(float("nan"))),
        (ValueError, "Invalid learning_rate: 'x'", lambda: aida_jax.ladam("x")),
        (ValueError, "Invalid eps_out: -1.0", lambda: aida_jax.scale_by_layerwise((1, 1), eps_out=-1.0)),
        (ValueError, "Invalid b1: None", lambda: aida_jax.aida(1e-3, b1=None)),
        (ValueError, "Invalid eps: .*0.0", lambda: aida_jax.aida(1e-3, eps=np.float32(0))),
        (TypeError, "b2 is <function.*; it must be a number: its schedule is given through optax.inject",
         lambda: aida_jax.aida(1e-3, b2=optax.constant_schedule(0.9))),
        (TypeError, "rectify is 1", lambda: aida_jax.aida(1e-3, rectify=1)),
        (TypeError, "mu_dtype is .*int8", lambda: aida_jax.aida(1e-3, mu_dtype=jnp.int8)),
        (TypeError, "mu_dtype is .*complex64", lambda: aida_jax.aida(1e-3, mu_dtype=jnp.complex64)),
        (TypeError, "mu_dtype is 'bfloat'; it must be", lambda: aida_jax.aida(1e-3, mu_dtype="bfloat")),
        (TypeError, "layers is 3; it must be a function", lambda: aida_jax.aida(1e-3, layers=3)),
        (TypeError, r"axis_name\('scale'\) is 3; it must be the name",
         lambda: aida_jax.aida(1e-3, axis_name=lambda path: 3 if path == "scale" else ()).init(tree())),
        (TypeError, r"axis_name\('dense/bias'\) is 3", lambda: aida_jax.aida(1e-3, axis_name=3).init(tree())),
        (TypeError, "mask is True, one answer for all leaves", lambda: aida_jax.aida(1e-3, mask=True)),
        (TypeError, "mask is Array.*, one answer for", lambda: aida_jax.aida(1e-3, mask=jnp.asarray(True))),
        (TypeError, "mask is 'kernel', one answer for", lambda: aida_jax.aida(1e-3, mask="kernel")),
        (TypeError, "mask gave False, one answer for all leaves; .* not of a leaf's path, .* a tree of bool",
         lambda: aida_jax.aida(1e-3, weight_decay=0.1, mask=lambda path: "kernel" in path).init(tree())),
        (TypeError, "leaf 'n' is of int32, which has no gradient: leave it out",
         lambda: aida_jax.aida(1e-3).init({"n": jnp.arange(3)})),
        (TypeError, "the rule is 3; it must be a pair", lambda: aida_jax.scale_by_layerwise(3)),
        (TypeError, r"the rule takes \(gg, power\).*functools.partial",
         lambda: aida_jax.scale_by_layerwise(lambda gg, power: (1, 1))),
        (TypeError, r"the rule takes \(x\)", lambda: aida_jax.scale_by_layerwise(lambda x=1: (1, 1))),
        (TypeError, r"the rule gave 1; it must give \(alpha, beta\)",
         lambda: (o := aida_jax.scale_by_layerwise(lambda gg: 1)).update(tree(), o.init(tree()))),
        (TypeError, r"the rule gave \(1.0, Array.*; it must give .* numbers or arrays as its sums",
         lambda: (o := aida_jax.scale_by_layerwise(lambda gg: (1.0, gg[:1]))).update(tree(), o.init(tree()))),
    ):  # fmt: skip
        with pytest.raises(error, match=match):
            make()


def test_a_traced_number_of_projections_is_refused_with_the_fix():
    injected = optax.inject_hyperparams(aida_jax.aida)(learning_rate=1e-3)
    with pytest.raises(TypeError, match=r"static_args=aida_jax.static_args\(aida_jax.aida\)"):
        injected.init(tree())


@pytest.mark.parametrize(
    ("grads", "told"),
    [
        ({**tree(), "scale": None}, "the state has the leaf 'scale', and the gradients have none there, or"),
        ({"dense": tree()["dense"]}, "the state has the leaf 'scale', .* by optax.masked or by optax.part"),
        ({**tree(), "more": jnp.ones(2)}, "the gradients have the leaf 'more', .*: make it of these param"),
        (None, "the state has the leaf 'dense/bias'"),
        (OrderedDict(tree()), "made of other containers than the gradients': give optimizer.init and update"),
    ],
    ids=["None", "without one", "with another", "nothing", "OrderedDict"],
)
@pytest.mark.parametrize("name", ["aida", "adam_plus", "laida-pre"])
def test_gradients_of_another_tree_are_refused_with_the_leaf_and_the_fix(name, grads, told):
    optimizer = made(name)
    with pytest.raises(ValueError, match=told):
        optimizer.update(grads, optimizer.init(tree()), tree())


@pytest.mark.parametrize("shape", [(3, 4), (1, 3), (4, 1), (3,), (), (2, 4, 3), (12,)])
@pytest.mark.parametrize("name", ["aida", "adam_plus", "laida-pre"])
def test_gradients_of_another_shape_are_refused_with_the_leaf_and_the_fix(name, shape):
    """As those of a model whose head was made anew, with the state of the old one."""
    scaling, grads = made(name), tree()
    grads["dense"]["kernel"] = jnp.ones(shape)
    told = (
        rf"leaf 'dense/kernel' of the gradients has the shape {re.escape(str(shape))}, and \(4, 3\) in the st"
    )
    with pytest.raises(ValueError, match=told):
        scaling.update(grads, scaling.init(tree()), grads)


@pytest.mark.parametrize(
    "given", [lambda own: own._asdict(), list, lambda own: (own,)], ids=["dict", "list", "a chain's"]
)
def test_a_state_without_its_type_is_refused_with_the_fix(given):
    """As a checkpoint that is read without a target gives it."""
    scaling = aida_jax.scale_by_aida()
    told = r"the state is a (dict|list|tuple) and no ScaleByAidaState: .* restore a checkpoint into opt"
    with pytest.raises(TypeError, match=told):
        scaling.update(tree(), given(scaling.init(tree())))


def test_one_leaf_has_one_answer():
    x = jnp.ones(3)
    ours, _ = trained(made("aida", weight_decay=0.5, mask=lambda params: False), x, [x])
    assert_bitwise(ours, trained(made("aida"), x, [x])[0])


def matrices(params):
    return jax.tree.map(lambda p: jnp.ndim(p) > 1, params)


OWN_FUNCTIONS = {
    "mask": matrices,
    "layers": lambda path: int(path == "dense/kernel"),
    "axis_name": lambda path: (),
    "mu_dtype": jnp.bfloat16,
}


@pytest.mark.parametrize("given", OWN_FUNCTIONS)
@pytest.mark.parametrize("function", [aida_jax.aida, aida_jax.adam_plus], ids=["aida", "adam_plus"])
def test_functions_and_types_are_no_schedules(function, given):
    """Injected, each is what it is without; and left to optax it is refused, where it would be called."""
    arguments = {"learning_rate": 1e-2, "weight_decay": 0.1, given: OWN_FUNCTIONS[given]}
    inject = optax.inject_hyperparams(function, static_args=aida_jax.static_args(function))
    ours, _ = trained(inject(**arguments), tree(), GRADIENTS)
    expected, _ = trained(function(**arguments), tree(), GRADIENTS)
    assert worst(ours, expected) < 1e-5
    if given != "axis_name":  # of which the answer to anything is one
        names = {*aida_jax.static_args(function)} - {given}
        with pytest.raises(TypeError, match=f"{given} is .*aida_jax.static_args"):
            optax.inject_hyperparams(function, static_args=names)(**arguments).init(tree())


def test_a_rule_is_no_schedule():
    function = aida_jax.scale_by_layerwise
    rule = lambda gg: (1.0, gg / (gg + 1))  # noqa: E731
    ours, _ = trained(
        optax.inject_hyperparams(function, static_args=aida_jax.static_args(function))(rule=rule),
        tree(),
        GRADIENTS,
    )
    expected, _ = trained(function(rule), tree(), GRADIENTS)
    assert worst(ours, expected) < 1e-5
    with pytest.raises(TypeError, match=r"the rule is \(1.0, .*static_args=\('rule',\)"):
        optax.inject_hyperparams(function)(rule=rule).init(tree())
