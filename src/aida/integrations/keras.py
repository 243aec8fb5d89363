"""In Keras 3 on its torch backend: a Keras optimizer that steps by a member of the family."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from ..monitor.sinks import needed
from ..optimizers.create import create_optimizer

keras: Any = needed("keras", "keras", "aida.integrations.keras")

KERAS_OWN = {*inspect.signature(keras.optimizers.Adam.__init__).parameters} - {
    "self", "learning_rate", "beta_1", "beta_2", "epsilon", "amsgrad", "kwargs"
}  # fmt: skip

REFUSED = {
    "lr": "Keras sets the learning rate at each step; give learning_rate",
    "decoupled_weight_decay": "weight_decay is Keras's own and always decoupled; give weight_decay alone",
}


@keras.saving.register_keras_serializable(package="aida")
class Optimizer(keras.optimizers.Optimizer):
    """A keras.optimizers.Optimizer by the name of a member, for compile(optimizer=...).

    model.save() has its moments. Learning rate schedules, clipping, gradient accumulation, EMA and
    weight_decay (decoupled, as AdamW's) are Keras's own.

    Arguments:
        member: "aida", "ladam", or another member's name.
        learning_rate: a float or a Keras schedule. Default: 1e-3.
        **arguments: the member's, such as K and betas, and Keras's, such as clipnorm and weight_decay.

    Raises RuntimeError on another backend of Keras, TypeError for lr and decoupled_weight_decay, which are
    Keras's, and what the member's constructor raises.

    Example:
        model.compile(optimizer=Optimizer("aida", 1e-3, K=2, weight_decay=0.01), loss="mse")
    """

    def __init__(self, member: str = "aida", learning_rate: Any = 1e-3, **arguments: Any) -> None:
        if keras.backend.backend() != "torch":
            raise RuntimeError(
                f"this optimizer steps torch tensors, and Keras runs on {keras.backend.backend()}: set "
                "KERAS_BACKEND=torch before keras is imported"
            )
        for name, said in REFUSED.items():
            if name in arguments:
                raise TypeError(f"{name}={arguments[name]!r} would have no effect: {said}")
        of_keras = {name: x for name, x in arguments.items() if name in KERAS_OWN}
        own = {name: x for name, x in arguments.items() if name not in KERAS_OWN}
        create_optimizer(member, [torch.zeros(1)], **own)  # refuses here what cannot be
        super().__init__(learning_rate, **of_keras)
        self.member, self.own = member, own

    def build(self, variables: Any) -> None:
        """Make the member, of the tensors of Keras's variables."""
        if self.built:
            return
        super().build(variables)
        self.inner = create_optimizer(self.member, [v.value for v in variables], **self.own)

    def _backend_update_step(self, grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
        """One step of the member; Keras has clipped, accumulated and decayed before."""
        given = {id(v): g for v, g in zip(trainable_variables, grads, strict=True)}
        for v in self._trainable_variables:
            v.value.grad = given.get(id(v))
        for group in self.inner.param_groups:
            group["lr"] = float(learning_rate)
        self.inner.step()

    def save_own_variables(self, store: Any) -> None:
        """Keras's variables, and beside them the member's state: "3.exp_avg" of the parameter 3."""
        super().save_own_variables(store)
        for i, state in self.inner.state_dict()["state"].items() if self.built else ():
            for name, x in state.items():
                store[f"{i}.{name}"] = (
                    x.float().cpu().numpy() if x.dtype == torch.bfloat16 else x.cpu().numpy()
                )

    def load_own_variables(self, store: Any) -> None:
        """What save_own_variables stored."""
        values = {key: store[key][()] for key in store.keys()}  # noqa: SIM118 - an HDF5 group has no iterator
        super().load_own_variables({key: x for key, x in values.items() if "." not in key})
        state: dict[int, dict[str, Any]] = {}
        for key in (key for key in values if "." in key):
            i, name = key.split(".")
            state.setdefault(int(i), {})[name] = torch.as_tensor(values[key])
        self.inner.load_state_dict({**self.inner.state_dict(), "state": state})

    def get_config(self) -> dict[str, Any]:
        """All arguments, so that a saved model is compiled with the same optimizer."""
        theirs = {k: x for k, x in super().get_config().items() if k in KERAS_OWN or k == "learning_rate"}
        return {"member": self.member, **self.own, **theirs}
