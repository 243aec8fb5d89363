"""In Keras 3 on its torch backend: compile(optimizer=...), schedules, accumulation, and saved models."""

import os

import numpy as np
import pytest
import torch

import aida
from helpers.peers import needed

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = needed("keras")
if keras.backend.backend() != "torch":
    pytest.skip("Keras runs on another backend", allow_module_level=True)
from aida.integrations.keras import Optimizer  # noqa: E402

X = np.random.default_rng(0).normal(size=(24, 5)).astype("float32")
Y = X @ np.arange(1, 6, dtype="float32")[:, None]


def model_with(optimizer):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(4, activation="tanh"), keras.layers.Dense(1)]
    )
    model.compile(optimizer=optimizer, loss="mse")
    return model


def fit(model, epochs=3, **own):
    model.fit(X, Y, batch_size=8, epochs=epochs, shuffle=False, verbose=0, **own)
    return [w.copy() for w in model.get_weights()]


def by_hand(steps, cls=aida.Aida, clip=None, decay=0.0, accumulate=1, **own):
    """The same training in a loop of torch's."""
    weights = model_with("sgd").get_weights()
    kernel1, bias1, kernel2, bias2 = params = [torch.nn.Parameter(torch.tensor(w)) for w in weights]
    optimizer = cls(params, weight_decay=decay, decoupled_weight_decay=True, **own)
    for t in range(steps):
        if t % accumulate == 0:
            optimizer.zero_grad()
        rows = slice(8 * (t % 3), 8 * (t % 3) + 8)
        output = (torch.tensor(X[rows]) @ kernel1 + bias1).tanh() @ kernel2 + bias2
        ((output - torch.tensor(Y[rows])).square().mean() / accumulate).backward()
        if (t + 1) % accumulate == 0:
            if clip:
                torch.nn.utils.clip_grad_norm_(params, clip)
            optimizer.step()
    return [p.detach().numpy() for p in params]


def assert_alike(found, expected):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("of_keras", "of_torch"),
    [
        ({"member": "aida", "K": 1}, {"cls": aida.Aida, "K": 1}),
        ({"member": "ladam"}, {"cls": aida.LAdam}),
        ({"weight_decay": 0.1}, {"decay": 0.1}),
        ({"global_clipnorm": 0.5}, {"clip": 0.5}),
        ({"gradient_accumulation_steps": 3}, {"accumulate": 3}),
    ],
)
def test_a_fit_is_the_loop_by_hand(of_keras, of_torch):
    found = fit(model_with(Optimizer(learning_rate=0.02, **of_keras)))
    assert_alike(found, by_hand(9, lr=0.02, **of_torch))


def test_a_schedule_of_keras_sets_lr():
    optimizer = Optimizer("aida", keras.optimizers.schedules.PiecewiseConstantDecay([3], [0.02, 0.0]))
    assert_alike(fit(model_with(optimizer)), by_hand(4, lr=0.02))


def test_a_saved_model_goes_on_as_if_it_had_not_stopped(tmp_path):
    whole = fit(model_with(Optimizer("aida", 0.02, K=1)), epochs=4)
    model = model_with(Optimizer("aida", 0.02, K=1))
    fit(model, epochs=2)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.optimizer.inner.param_groups[0]["K"] == 1
    assert_alike(fit(again, epochs=2), whole)


def test_what_is_no_argument_is_refused():
    with pytest.raises(TypeError, match="AdamPlus has no argument 'K'"):
        Optimizer("adamplus", K=1)
    with pytest.raises(ValueError, match="unknown optimizer 'aide': did you mean 'aida'"):
        Optimizer("aide")


@pytest.mark.parametrize(
    ("given", "instead"),
    [({"lr": 0.1}, "give learning_rate"), ({"decoupled_weight_decay": False}, "give weight_decay alone")],
)
def test_what_keras_would_override_is_refused(given, instead):
    (name,) = given
    with pytest.raises(TypeError, match=f"^{name}=.* would have no effect: .*{instead}$"):
        Optimizer("aida", **given)
