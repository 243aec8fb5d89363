"""Keras 3 on its torch backend: `KERAS_BACKEND=torch python examples/integrations/with_keras.py`."""

import keras
from digits import test_x, test_y, train_x, train_y

from aida.integrations.keras import Optimizer

keras.utils.set_random_seed(0)
model = keras.Sequential(
    [keras.layers.Flatten(), keras.layers.Dense(64, activation="gelu"), keras.layers.Dense(10)]
)
schedule = keras.optimizers.schedules.CosineDecay(3e-3, decay_steps=140)
model.compile(
    optimizer=Optimizer("aida", schedule, K=2, weight_decay=0.01, clipnorm=1.0),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit(train_x.numpy(), train_y.numpy(), batch_size=64, epochs=6, verbose=0)
model.save("digits.keras")  # with the optimizer's moments
_, accuracy = model.evaluate(test_x.numpy(), test_y.numpy(), verbose=0)
print(f"accuracy {accuracy:.3f}")
