"""layer_stepsizes: each column against its definition in float64, and the way of the rows to files."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import aida_jax
from aida_jax import monitor
from helpers.jax_members import every_member, made, trained, tree

GRADIENTS = [tree(seed=t) for t in (1, 2, 3)]
COLUMNS = ["kind", "step", "layer", "parameter", "numel", "mean", "std", "min", "max", "p05", "p25", "p50",
           "p75", "p95", "cap", "capped", "histogram", "cos", "g_norm", "m_norm", "p_norm", "residual",
           "update_ratio"]  # fmt: skip


def measured(name, **more):
    optimizer = made(name, **more)
    params, state = trained(optimizer, tree(), GRADIENTS)
    return (
        optimizer,
        params,
        state,
        aida_jax.layer_stepsizes(state, params, GRADIENTS[-1], optimizer=optimizer),
    )


@every_member
def test_a_row_says_what_its_columns_are(name):
    optimizer, params, state, rows = measured(name)
    assert [row["parameter"] for row in rows] == ["dense/bias", "dense/kernel", "scale"]
    assert [row["layer"] for row in rows] == [1, 2, 3]
    row = rows[1]
    assert [*row] == COLUMNS
    wide = lambda x: np.asarray(x, np.float64)  # noqa: E731
    p, g, m, v = (wide(t["dense"]["kernel"]) for t in (params, GRADIENTS[-1], state[0].mu, state[0].nu))
    eps_out = 1e-8 if name == "adabelief" else 0.0
    u = 1 / (np.sqrt(v / (1 - 0.999**3) + 1e-8 / 0.001) + eps_out) * np.ones_like(p)
    if name.endswith("post"):
        u = np.full_like(u, u.mean())
    near = lambda key, x: np.testing.assert_allclose(row[key], x, rtol=2e-5, err_msg=key)  # noqa: E731
    near("mean", u.mean())
    np.testing.assert_allclose(row["std"], u.std(), atol=1e-5 * u.mean())
    near("min", u.min())
    near("max", u.max())
    assert row["step"] == 3
    assert row["numel"] == 12
    assert sum(row["histogram"]["counts"]) == 12
    edges = monitor.histogram_edges(row["histogram"])
    assert edges[0] <= u.min() * 1.0001
    assert edges[-1] >= u.max() * 0.9999
    assert row["p05"] <= row["p50"] <= row["p95"]
    near("cap", 1 / (1 / np.sqrt(0.001 / 1e-8) + eps_out))
    assert row["capped"] == 0.0
    near("cos", (g * m).sum() / np.linalg.norm(g) / np.linalg.norm(m))
    near("g_norm", np.linalg.norm(g))
    near("m_norm", np.linalg.norm(m))
    near("p_norm", np.linalg.norm(p))
    near("update_ratio", np.linalg.norm(1e-2 / (1 - 0.9**3) * u * m) / np.linalg.norm(p))
    gg, gm, mm = (g * g).sum(), (g * m).sum(), (m * m).sum()
    rule = optimizer.settings.rule
    alpha, beta = rule(gg=gg, gm=gm, mm=mm) if callable(rule) else rule
    near("residual", np.linalg.norm(beta * m - alpha * g) / np.linalg.norm(m))


def test_stepsizes_at_the_cap_are_counted():
    optimizer = made("adam_plus")
    params = {"a": jnp.ones(4)}
    grads = {"a": jnp.asarray([0.0, 0.0, 0.0, 1.0])}
    params, state = trained(optimizer, params, [grads])
    (row,) = aida_jax.layer_stepsizes(state, params, grads, optimizer=optimizer)
    assert row["capped"] == 0.75
    assert row["max"] == pytest.approx(row["cap"])


def test_without_gradients_their_columns_are_none():
    optimizer, params, state, _ = measured("aida")
    row = aida_jax.layer_stepsizes(state, params, optimizer=optimizer)[0]
    assert [key for key, x in row.items() if x is None] == ["cos", "g_norm", "residual"]


def test_a_scaling_alone_has_no_update_ratio():
    scaling = aida_jax.scale_by_aida()
    _, state = scaling.update(GRADIENTS[0], scaling.init(tree()))
    row = aida_jax.layer_stepsizes(state, tree(), optimizer=scaling)[0]
    assert monitor.finite(row)["update_ratio"] is None
    assert row["mean"] > 0


def test_no_rows_before_the_first_step_and_of_nothing():
    optimizer = made("aida")
    assert aida_jax.layer_stepsizes(optimizer.init(tree()), tree(), optimizer=optimizer) == []
    _, state = optimizer.update({}, optimizer.init({}), {})
    assert aida_jax.layer_stepsizes(state, {}, optimizer=optimizer) == []


def test_while_a_rectified_step_is_intractable_u_is_one_and_has_no_cap():
    _, _, _, rows = measured("adabelief", rectify=True)
    assert {(row["mean"], row["cap"], row["capped"]) for row in rows} == {(1.0, None, None)}


def test_a_schedules_rate_is_that_of_the_last_update():
    schedule = optax.piecewise_constant_schedule(1e-2, {3: 0.0})
    *_, rows = measured("aida", learning_rate=schedule)
    *_, expected = measured("aida")
    assert rows[0]["update_ratio"] == pytest.approx(expected[0]["update_ratio"])


def test_stacked_layers_have_rows_of_their_own():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 3)), jnp.float32)
    optimizer = made("aida", layers=lambda path: 1)
    params, state = trained(optimizer, {"w": x}, [{"w": x}, {"w": x * x}])
    rows = aida_jax.layer_stepsizes(state, params, {"w": x * x}, optimizer=optimizer)
    alone = made("aida")
    apart = [trained(alone, {"w": x[i]}, [{"w": x[i]}, {"w": x[i] ** 2}]) for i in range(2)]
    assert [row["parameter"] for row in rows] == ["w[0]", "w[1]"]
    for i, (row, (p, s)) in enumerate(zip(rows, apart, strict=True)):
        (expected,) = aida_jax.layer_stepsizes(s, p, {"w": x[i] ** 2}, optimizer=alone)
        for key in ("mean", "std", "p50", "cos", "residual", "update_ratio", "p_norm"):
            assert row[key] == pytest.approx(expected[key], rel=2e-5), key
        assert row["histogram"] == expected["histogram"]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
@pytest.mark.parametrize("stacked", [0, 1, 2])
@pytest.mark.parametrize("name", ["aida", "laida-pre", "laida-post"])
def test_any_number_of_axes_may_count_layers(name, stacked, dtype):
    """Up to all of them, when each layer is one number."""
    rng = np.random.default_rng(0)
    turned = 1 + 0.5j if dtype == jnp.complex64 else 1
    x, y = (jnp.asarray(rng.standard_normal((2, 3)) * turned, dtype) for _ in range(2))
    optimizer, alone = made(name, layers=lambda path: stacked), made(name)
    params, state = trained(optimizer, {"w": x}, [{"w": x}, {"w": y}])
    rows = aida_jax.layer_stepsizes(state, params, {"w": y}, optimizer=optimizer)
    assert len(rows) == (1, 2, 6)[stacked]
    for row, index in zip(rows, np.ndindex((2, 3)[:stacked]), strict=True):
        p, s = trained(alone, {"w": x[index]}, [{"w": x[index]}, {"w": y[index]}])
        (expected,) = aida_jax.layer_stepsizes(s, p, {"w": y[index]}, optimizer=alone)
        for key in ("numel", "mean", "min", "max", "cos", "g_norm", "residual", "update_ratio"):
            assert row[key] == pytest.approx(expected[key], rel=2e-4, abs=1e-5), key


def test_masked_and_injected_states_are_found():
    mask = {"dense": {"kernel": True, "bias": False}, "scale": False}
    masked = optax.chain(optax.clip(10.0), optax.masked(made("aida"), mask))
    params, state = trained(masked, tree(), GRADIENTS)
    (row,) = aida_jax.layer_stepsizes(state, params, GRADIENTS[-1], optimizer=made("aida"))
    *_, expected = measured("aida")
    assert row["parameter"] == "dense/kernel"
    assert row["mean"] == pytest.approx(expected[1]["mean"])
    injected = optax.inject_hyperparams(aida_jax.aida, static_args=aida_jax.static_args(aida_jax.aida))(
        learning_rate=1e-2
    )
    params, state = trained(injected, tree(), GRADIENTS)
    member = aida_jax.aida(K=2, **state.hyperparams)
    row = aida_jax.layer_stepsizes(state, params, GRADIENTS[-1], optimizer=member)[1]
    for key in ("mean", "cos", "update_ratio", "cap"):
        assert row[key] == pytest.approx(expected[1][key], rel=1e-4), key


def test_what_cannot_be_measured_is_refused_with_the_fix():
    optimizer, params, state, _ = measured("aida")
    with pytest.raises(TypeError, match=r"it must be the member that the state is of"):
        aida_jax.layer_stepsizes(state, params, optimizer=optax.adam(1e-3))
    with pytest.raises(ValueError, match="0 ScaleByAidaStates"):
        aida_jax.layer_stepsizes(optax.adam(1e-3).init(params), params, optimizer=optimizer)
    with pytest.raises(ValueError, match=r"2 ScaleByAidaStates.*inner_states"):
        aida_jax.layer_stepsizes((state, state), params, optimizer=optimizer)


def test_a_state_of_something_else_is_refused_in_a_sentence():
    optimizer, params, state, _ = measured("aida")
    with pytest.raises(KeyError, match="params lack dense/bias, dense/kernel: give all"):
        aida_jax.layer_stepsizes(state, {"scale": params["scale"]}, optimizer=optimizer)
    several = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    with pytest.raises(ValueError, match=r"this state is of \(2,\) models, as jax.vmap"):
        aida_jax.layer_stepsizes(several, params, optimizer=optimizer)
    with pytest.raises(TypeError, match=r"this state is traced.* outside of jit"):
        jax.jit(lambda state: len(aida_jax.layer_stepsizes(state, params, optimizer=optimizer)))(state)
    _, pooled = trained(made("laida-pre"), params, GRADIENTS)
    for given, member in ((pooled, "aida"), (state, "laida-pre")):
        with pytest.raises(ValueError, match=r"nu of leaf 'dense/bias' .* give layerwise= and layers="):
            aida_jax.layer_stepsizes(given, params, optimizer=made(member))


@pytest.mark.parametrize("what", ["params", "grads"])
@pytest.mark.parametrize("shape", [(3, 4), (1, 3), (), (2, 4, 3)])
def test_arrays_of_other_shapes_are_refused_with_the_leaf(what, shape):
    """Some would be broadcast, and the row be of something else."""
    optimizer, params, state, _ = measured("aida")
    given = {"params": params, "grads": GRADIENTS[-1]}
    given[what] = {**given[what], "dense": {**given[what]["dense"], "kernel": jnp.ones(shape)}}
    with pytest.raises(
        ValueError, match=rf"leaf 'dense/kernel' of {what} has the shape .* \(4, 3\) in the state"
    ):
        aida_jax.layer_stepsizes(state, **given, optimizer=optimizer)


def test_a_state_that_was_read_without_its_types_is_refused_with_the_fix():
    """As orbax gives it without a target."""
    optimizer, params, state, _ = measured("aida")
    plain = [state[0]._asdict(), None, None]
    with pytest.raises(ValueError, match=r"in a plain dict.*: restore it into optimizer.init\(params\)"):
        aida_jax.layer_stepsizes(plain, params, optimizer=optimizer)


def test_a_member_that_was_made_anew_is_refused_with_the_fix():
    """As equinox.filter_jit returns it."""
    optimizer, params, state, _ = measured("aida")
    with pytest.raises(TypeError, match=r"lost its settings.*: give the one that aida_jax.aida"):
        aida_jax.layer_stepsizes(state, params, optimizer=jax.tree.map(lambda x: x, optimizer))


def test_what_is_no_parameter_is_left_out():
    """As the functions in an equinox model."""
    optimizer, params, state, rows = measured("aida")
    more = {**params, "activation": jnp.tanh, "name": "net"}
    assert (
        aida_jax.layer_stepsizes(state, more, {**GRADIENTS[-1], **more, **GRADIENTS[-1]}, optimizer=optimizer)
        == rows
    )


def test_a_member_that_is_replaced_keeps_its_settings():
    _, params, state, rows = measured("aida")
    member = made("aida")._replace(update=None)
    assert aida_jax.layer_stepsizes(state, params, GRADIENTS[-1], optimizer=member) == rows


def test_selected_layers_are_numbered():
    optimizer, params, state, _ = measured("aida")
    rows = aida_jax.layer_stepsizes(
        state, params, optimizer=optimizer, select=lambda path: "dense" not in path
    )
    assert [(row["layer"], row["parameter"]) for row in rows] == [(1, "scale")]


def test_a_second_record_compiles_nothing():
    optimizer, params, state, _ = measured("aida")
    from aida_jax.layer_sums import measured as compiled

    before = compiled._cache_size()
    aida_jax.layer_stepsizes(state, params, GRADIENTS[0], optimizer=optimizer)
    aida_jax.layer_stepsizes(state, params, GRADIENTS[0], optimizer=made("aida", b2=0.99))
    aida_jax.layer_stepsizes(state, params, GRADIENTS[0], optimizer=made("aida", layers=lambda path: 0))
    assert compiled._cache_size() == before


def test_rows_go_to_files_and_back(tmp_path):
    *_, rows = measured("aida")
    sinks = [monitor.JSONL(tmp_path / "rows.jsonl"), monitor.CSV(tmp_path / "rows.csv"), monitor.Memory()]
    for sink in sinks:
        sink.write(monitor.record(rows, run=monitor.new_run("aida")))
    read = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in read] == ["stepsize"] * 3 + ["spread"]
    assert read[0]["mean"] == rows[0]["mean"]
    assert read[-1]["mean"] == pytest.approx(np.mean([row["mean"] for row in rows]))
    assert (tmp_path / "rows.csv").read_text().startswith("kind,run,step,layer,parameter,")
    assert sinks[-1].rows[0]["run"].startswith("aida-")


def test_gradients_of_low_precision_and_complex_leaves_are_measured():
    optimizer = made("aida")
    params = {"half": jnp.ones(4, jnp.bfloat16), "z": jnp.asarray([1 + 2j, 2 - 1j])}
    grads = jax.tree.map(lambda x: x * 0.5, params)
    params, state = trained(optimizer, params, [grads] * 2)
    rows = aida_jax.layer_stepsizes(state, params, grads, optimizer=optimizer)
    assert [row["numel"] for row in rows] == [4, 2]
    assert rows[1]["g_norm"] == pytest.approx(np.sqrt(10 / 4))


@pytest.mark.parametrize(
    ("module", "use", "said"),
    [
        (
            "pandas",
            lambda: monitor.Memory().frame(),
            'Memory.frame needs pandas: pip install "aida-jax[monitor]"',
        ),
        ("torch", lambda: monitor.TensorBoard("runs"), "TensorBoard needs torch: pip install torch"),
    ],
)
def test_what_is_missing_says_what_to_install_when_it_is_made(monkeypatch, module, use, said):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError) as caught:
        use()
    assert str(caught.value) == said
