"""In the real Lightning Trainer: several optimizers, loggers, exceptions, and the command line."""

import csv
import pickle
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import aida
from aida.monitor import JSONL, Memory, callbacks
from helpers.peers import needed
from helpers.small_net import EXAMPLES, NAMES, Net, recorded

pl = needed("pytorch_lightning")
from pytorch_lightning.loggers import CSVLogger  # noqa: E402

from aida.integrations.lightning import StepsizeCallback  # noqa: E402

DATA = torch.utils.data.DataLoader(EXAMPLES, batch_size=2)


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 3), nn.Linear(3, 1)

    def loss(self, batch):
        return (self.head(self.body(batch["x"]).tanh()) - batch["labels"]).square().mean()

    def training_step(self, batch, _):
        return self.loss(batch)

    def configure_optimizers(self):
        return aida.Aida(self.parameters())

    def train_dataloader(self):
        return DATA


class Gan(Module):
    """Two optimizers that are known and one that is not, stepped by hand."""

    automatic_optimization = False

    def training_step(self, batch, _):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

    def configure_optimizers(self):
        unknown = torch.optim.SGD(self.parameters(), 0.1)
        return [unknown, aida.Aida(self.body.parameters()), torch.optim.Adam(self.head.parameters())]

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


def trainer_of(folder, callback, **own):
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu",
                 enable_model_summary=False)  # fmt: skip
    return pl.Trainer(max_epochs=2, default_root_dir=folder, callbacks=[callback], **{**quiet, **own})


def test_the_optimizer_is_watched_and_the_monitor_closed(tmp_path):
    callback = StepsizeCallback(every=2)
    assert (callback.monitor, callback.monitors) == (None, ())
    trainer_of(tmp_path, callback).fit(Module())
    assert recorded(callback.monitor) == [1, 2, 4, 6]
    assert not callback.monitor._hooks


def test_loggers_get_the_numbers_at_the_optimizers_steps(tmp_path):
    callback = StepsizeCallback(every=2, sinks=["logger", "memory"])
    logger = CSVLogger(tmp_path, flush_logs_every_n_steps=1)
    trainer_of(tmp_path, callback, logger=logger).fit(Module())
    with (tmp_path / "lightning_logs/version_0/metrics.csv").open() as file:
        found = {
            int(row["step"]): row for row in csv.DictReader(file) if row.get("stepsize_mean/body.weight")
        }
    assert [*found] == [1, 2, 4, 6]
    for row in callback.monitor.rows:
        if row["kind"] == "stepsize":
            assert float(found[row["step"]][f"stepsize_mean/{row['parameter']}"]) == pytest.approx(
                row["mean"]
            )


def test_optimizers_that_are_not_known_are_left_out_with_one_warning(tmp_path):
    callback, module = StepsizeCallback(every=1), Gan()
    with pytest.warns(UserWarning, match="no stepsizes of SGD") as caught:
        trainer_of(tmp_path, callback, max_steps=9).fit(module)
    assert len([w for w in caught if "no stepsizes" in str(w.message)]) == 1
    rows = callback.monitor.rows
    found = {(row["optimizer"], row["parameter"]) for row in rows if row["kind"] == "stepsize"}
    of = {"Aida 1": "body", "Adam 2": "head"}
    assert found == {(name, f"{of[name]}.{what}") for name in of for what in ("weight", "bias")}
    assert not any(monitor._hooks for monitor in callback.monitors)


def test_two_optimizers_are_apart_in_a_logger(tmp_path):
    given = []
    logger = CSVLogger(tmp_path)
    logger.log_metrics = lambda values, step=None: given.append((step, values))
    with pytest.warns(UserWarning, match="no stepsizes of SGD"):
        trainer_of(tmp_path, StepsizeCallback(every=1), logger=logger, max_steps=3).fit(Gan())
    tags = {tag for step, values in given if step == 1 for tag in values}
    assert {"Aida 1/stepsize_mean/body.weight", "Adam 2/stepsize_mean/head.weight"} <= tags


def test_an_exception_closes_the_monitor(tmp_path):
    class Failing(Module):
        def training_step(self, batch, index):
            if index == 2:
                raise KeyboardInterrupt
            return super().training_step(batch, index)

    callback = StepsizeCallback(every=1, sinks=[JSONL(tmp_path / "rows.jsonl")])
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        trainer_of(tmp_path, callback).fit(Failing())
    assert not callback.monitor._hooks


def test_beginning_again_ends_what_was_begun():
    model, memory = Net(), Memory()
    trainer = SimpleNamespace(optimizers=[aida.Aida(model.parameters())], loggers=[])
    callback = StepsizeCallback(every=1, sinks=memory)
    for _ in range(3):
        callback.on_train_start(trainer, model)
        model(EXAMPLES[0]["x"], EXAMPLES[0]["labels"])["loss"].backward()
        trainer.optimizers[0].step()
    callback.on_train_end(trainer, model)
    callback.on_train_end(trainer, model)
    assert [row["step"] for row in memory.rows if row["kind"] == "spread"] == [1, 2, 3]
    assert not trainer.optimizers[0]._optimizer_step_post_hooks


def test_a_callback_is_a_class_of_its_own_that_pickles(tmp_path):
    model = Net()
    callback = StepsizeCallback(every=3, sinks=tmp_path / "rows.jsonl")
    logger = lambda: None  # noqa: E731 - what cannot be pickled
    callback.on_train_start(
        SimpleNamespace(optimizers=[aida.Aida(model.parameters())], loggers=[logger]), model
    )
    again = pickle.loads(pickle.dumps(callback))
    assert (again.monitors, again._loggers, again.arguments["every"]) == ((), [], 3)
    assert again.sinks[0].path == tmp_path / "rows.jsonl"
    again.begin([aida.Aida(model.parameters())], model, has_logger=False)
    callback.monitors = again.monitors = ()
    with pytest.raises(ValueError, match="1 or more, not 0"):
        StepsizeCallback(every=0)
    with pytest.raises(TypeError, match="not 3"):
        StepsizeCallback(sinks=3)


def test_the_former_names_warn_and_are_the_same_class():
    for take in (lambda: callbacks.LightningCallback(), callbacks.lightning_callback):
        with pytest.warns(DeprecationWarning, match=r"use aida.integrations.lightning.StepsizeCallback"):
            assert type(take()) is StepsizeCallback
    with pytest.raises(AttributeError, match="no attribute 'Callback'"):
        _ = callbacks.Callback


def test_named_in_the_command_line(tmp_path, monkeypatch):
    needed("jsonargparse")
    from pytorch_lightning.cli import LightningCLI

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [
        "train", "fit", "--trainer.callbacks=aida.integrations.lightning.StepsizeCallback",
        "--trainer.callbacks.every=2", "--trainer.callbacks.sinks=rows.jsonl", "--trainer.max_epochs=2",
        "--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_checkpointing=false",
    ])  # fmt: skip
    LightningCLI(Module, save_config_callback=None)
    assert all(f'"{name}"' in (tmp_path / "rows.jsonl").read_text() for name in NAMES)


def test_the_other_library_takes_the_callback_too(tmp_path):
    """`lightning` brings `pytorch_lightning` along: a callback of one works in the other's Trainer."""
    other = needed("lightning.pytorch")

    class Other(other.LightningModule):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 3), nn.Linear(3, 1)

        def training_step(self, batch, _):
            return (self.head(self.body(batch["x"]).tanh()) - batch["labels"]).square().mean()

        def configure_optimizers(self):
            return aida.Aida(self.parameters())

    callback = StepsizeCallback(every=2)
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer = other.Trainer(
        max_epochs=2, default_root_dir=tmp_path, callbacks=[callback], accelerator="cpu", **quiet
    )
    trainer.fit(Other(), DATA)
    assert recorded(callback.monitor) == [1, 2, 4, 6]
