"""In the Hugging Face Trainer: its arguments become an optimizer's, and its loggers get the stepsizes."""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Callable, Iterator, Mapping
from copy import copy
from typing import Any

from torch.optim import Optimizer

from ..monitor.sinks import needed
from ..optimizers import Aida
from ..optimizers.base import Layerwise
from .watching import LOGGER, Watching

needed("transformers", "transformers", "aida.integrations.transformers")
from transformers import PrinterCallback, ProgressCallback, TrainerCallback  # noqa: E402

TERMINAL = (PrinterCallback, ProgressCallback)
"""Callbacks that would print every number of every layer."""

FROM: dict[str, Callable[[Any], Any]] = {
    "lr": lambda args: args.learning_rate,
    "betas": lambda args: (args.adam_beta1, args.adam_beta2),
    "eps": lambda args: args.adam_epsilon,
    "weight_decay": lambda args: args.weight_decay,
    "decoupled_weight_decay": lambda args: True,
}


class TrainingArgumentsOf(Mapping[str, Any]):
    """An optimizer's arguments, read from TrainingArguments at each use: a search over them changes them."""

    def __init__(self, args: Any, own: Mapping[str, Any]) -> None:
        self.args, self.own = args, dict(own)

    def _more(self) -> dict[str, Any]:
        """Arguments of the command line's --optim_args, as K=1,xi=1e-12; then the caller's own."""
        given = re.split(r",(?![^(\[{]*[)\]}])", self.args.optim_args or "")  # at commas outside of brackets
        pairs = [pair.partition("=") for pair in given if pair.strip()]
        more = {name.strip(): _literal(value.strip()) for name, _, value in pairs} | self.own
        if "weight_decay" in more:
            decay = more["weight_decay"]
            raise TypeError(
                f"weight_decay={decay!r} would have no effect: the Trainer writes "
                f"TrainingArguments.weight_decay, {self.args.weight_decay!r}, into the optimizer's groups; "
                f"give TrainingArguments(weight_decay={decay!r})"
            )
        if more.get("layers") == "module":
            raise TypeError(
                'layers="module" needs the names of parameters, which the Trainer gives no optimizer: make '
                'one, Trainer(optimizers=(Aida(model.named_parameters(), layers="module"), None))'
            )
        return more

    def __getitem__(self, name: str) -> Any:
        more = self._more()
        return more[name] if name in more else FROM[name](self.args)

    def __iter__(self) -> Iterator[str]:
        return iter({**FROM, **self._more()})

    def __len__(self) -> int:
        return len({*self})


def optimizer_cls_and_kwargs(
    args: Any, cls: type[Optimizer] = Aida, **own: Any
) -> tuple[type[Optimizer], Mapping[str, Any]]:
    """What Trainer(optimizer_cls_and_kwargs=...) takes, with TrainingArguments in it as AdamW has them.

    lr is learning_rate, betas (adam_beta1, adam_beta2), eps adam_epsilon (here it caps the stepsize, at 316
    for 1e-8), decay weight_decay: decoupled, and by the Trainer itself not of norms and biases. optim_args,
    such as "K=1", are arguments too. They are read when the optimizer is made, so that a hyperparameter
    search over them is one.

    Arguments:
        args: the TrainingArguments.
        cls: a member of the family. Default: Aida.
        **own: arguments of the optimizer that come before those of `args`; but for weight_decay, which the
            Trainer takes from TrainingArguments alone.

    Raises TypeError for what is no member of the family, for weight_decay in `own` or in optim_args, and for
    layers="module", which needs names that the Trainer does not give.

    Example:
        Trainer(model, args, optimizer_cls_and_kwargs=optimizer_cls_and_kwargs(args, K=1))
    """
    if not (isinstance(cls, type) and issubclass(cls, Layerwise)):
        raise TypeError(f"cls is a class of the family, such as aida.Aida, not {cls!r}")
    arguments = TrainingArgumentsOf(args, own)
    len(arguments)  # what has no effect is refused here
    return cls, arguments


class StepsizeCallback(Watching, TrainerCallback):
    """A TrainerCallback that watches the Trainer's optimizer.

    Its numbers go to the Trainer's reporters (report_to): neither to the terminal nor to the log_history of
    checkpoints, which a few numbers of each layer would fill. A training that is tried again, as
    auto_find_batch_size does, is watched once; the Trainer tells no callback that it has raised.

    Arguments:
        trainer: whose reporters are used. Default: None, for other sinks alone.
        sinks: as StepsizeMonitor's, or "logger", the reporters; or a list of them. Default: "logger" where
            there is a trainer, else "memory".
        every: steps between two records, 1 or more. Default: 100.
        select, all_ranks, run: as StepsizeMonitor's.

    Raises TypeError for "logger" without a trainer, and what StepsizeMonitor raises.

    Example:
        trainer.add_callback(StepsizeCallback(trainer, every=100))
    """

    def __init__(
        self,
        trainer: Any = None,
        *,
        every: int = 100,
        sinks: Any = None,
        select: Any = None,
        all_ranks: bool = False,
        run: str | None = None,
    ) -> None:
        if trainer is not None and not hasattr(trainer, "callback_handler"):
            raise TypeError(f"trainer is a transformers.Trainer, not {type(trainer).__name__}")
        if trainer is None and (sinks == LOGGER or (isinstance(sinks, list | tuple) and LOGGER in sinks)):
            raise TypeError(
                'sinks="logger" needs the Trainer whose reporters they are: '
                "trainer.add_callback(StepsizeCallback(trainer))"
            )
        super().__init__(every, sinks, select, all_ranks, run)
        self.trainer: Any = trainer
        self._waiting: list[dict[str, float]] = []

    def send(self, values: dict[str, float], step: int) -> None:
        """Keep the numbers until the Trainer has counted the step."""
        self._waiting.append(values)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to watch, and end what was begun before."""
        self._waiting.clear()
        self.begin([kwargs["optimizer"]], kwargs["model"], has_logger=self.trainer is not None)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report what has been recorded; at the last step, wait for it: later the reporters are closed."""
        if control.should_training_stop:
            for monitor in self.monitors:
                monitor.flush()
        for values in self._waiting:
            for callback in self.trainer.callback_handler.callbacks:
                if callback is not self and not isinstance(callback, TERMINAL):
                    callback.on_log(args, state, copy(control), logs={**values}, **kwargs)
        self._waiting.clear()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End watching."""
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "trainer": None}


def _literal(text: str) -> Any:
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError):
        return text
