"""The monitor inside trainers that own the loop: the real ones, on a model of two layers."""

import pickle

import pytest
import torch
from torch import nn

import aida
from aida.monitor import JSONL, Memory, callbacks
from aida.monitor.callbacks import huggingface_callback, lightning_callback

EXAMPLES = [
    {"x": torch.randn(4, generator=torch.Generator().manual_seed(i)), "labels": torch.ones(1)}
    for i in range(6)
]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(4, 3), nn.Linear(3, 1)

    def forward(self, x, labels):
        output = self.head(self.body(x).tanh())
        return {"loss": (output - labels).square().mean(), "logits": output}


def assert_recorded(monitor):
    spreads = [row for row in monitor.rows if row["kind"] == "spread"]
    assert [row["step"] for row in spreads] == [1, 2, 4, 6]
    rows = [row for row in monitor.rows if row["kind"] == "stepsize" and row["step"] == 6]
    assert [row["parameter"] for row in rows] == ["body.weight", "body.bias", "head.weight", "head.bias"]
    assert all(row["cos"] is not None and 0 < row["mean"] < 317 for row in rows)


def test_hugging_face(tmp_path):
    from transformers import Trainer, TrainingArguments

    model = Net()
    optimizer = aida.Aida(model.parameters())
    callback = huggingface_callback(every=2)
    arguments = TrainingArguments(
        str(tmp_path),
        per_device_train_batch_size=2,
        max_steps=6,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(
        model, arguments, train_dataset=EXAMPLES, optimizers=(optimizer, None), callbacks=[callback]
    )
    trainer.train()
    assert_recorded(callback.monitor)
    assert not callback.monitor._hooks, "closed when training ends"


class Optimizerless:
    """What a Trainer gives its callbacks."""

    def __init__(self, *optimizers):
        self.optimizers = optimizers


def steps(optimizer, number=2):
    for _ in range(number):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        optimizer.step()


def test_a_training_that_is_tried_again_is_recorded_once():
    """As auto_find_batch_size does after an error, of which no callback is told."""
    model, memory = Net(), Memory()
    optimizer = aida.Aida(model.parameters())
    callback = huggingface_callback(every=1, sinks=memory)
    for _ in range(3):
        callback.on_train_begin(None, None, None, optimizer=optimizer, model=model)
        steps(optimizer, 1)
    callback.on_train_end(None, None, None)
    callback.on_train_end(None, None, None)
    assert [row["step"] for row in memory.rows if row["kind"] == "spread"] == [1, 2, 3]
    assert not optimizer._optimizer_step_post_hooks


def test_optimizers_that_are_not_known_are_left_out_with_one_warning():
    model = Net()
    generator, critic = aida.Aida(model.body.parameters()), torch.optim.Adam(model.head.parameters())
    trainer = Optimizerless(torch.optim.SGD(model.parameters(), 0.1), generator, critic)
    callback = lightning_callback(every=1)
    assert (callback.monitor, callback.monitors) == (None, ())
    with pytest.warns(UserWarning, match="no stepsizes of SGD") as caught:
        callback.on_train_start(trainer, model)
    assert len(caught) == 1
    for optimizer in trainer.optimizers:
        steps(optimizer)
    callback.on_exception(trainer, model, ValueError())
    assert [monitor.optimizer for monitor in callback.monitors] == [generator, critic]
    rows = callback.monitor.rows
    found = {(row["optimizer"], row["parameter"]) for row in rows if row["kind"] == "stepsize"}
    of = {"Aida 1": "body", "Adam 2": "head"}
    assert found == {(name, f"{of[name]}.{what}") for name in of for what in ("weight", "bias")}
    assert not generator._optimizer_step_post_hooks
    assert not critic._optimizer_step_post_hooks


@pytest.mark.parametrize("name", ["HuggingFaceCallback", "LightningCallback"])
def test_a_callback_is_a_class_of_its_own_that_pickles(name, tmp_path):
    cls = getattr(callbacks, name)
    assert cls.__qualname__ == name
    model = Net()
    callback = cls(every=3, to=tmp_path / "rows.jsonl")
    callback.begin([aida.Aida(model.parameters())], model)
    again = pickle.loads(pickle.dumps(callback))
    assert (again.monitors, again.arguments["every"]) == ((), 3)
    assert again.arguments["sinks"][0].path == tmp_path / "rows.jsonl"
    again.begin([aida.Aida(model.parameters())], model)
    callback.monitors = again.monitors = ()
    with pytest.raises(TypeError, match="not None"):
        cls(sinks=None)
    with pytest.raises(ValueError, match="1 or more, not 0"):
        cls(every=0)


def test_lightning(tmp_path):
    import pytorch_lightning as pl

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 3), nn.Linear(3, 1)

        def training_step(self, batch, _):
            return (self.head(self.body(batch["x"]).tanh()) - batch["labels"]).square().mean()

        def configure_optimizers(self):
            return aida.Aida(self.parameters())

    callback = lightning_callback(every=2)
    data = torch.utils.data.DataLoader(EXAMPLES, batch_size=2)
    quiet = dict(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    pl.Trainer(max_steps=6, default_root_dir=tmp_path, callbacks=[callback], **quiet).fit(Module(), data)
    assert_recorded(callback.monitor)
    assert not callback.monitor._hooks

    class Failing(Module):
        def training_step(self, batch, index):
            if index == 2:
                raise KeyboardInterrupt
            return super().training_step(batch, index)

    callback = lightning_callback(every=1, to=[JSONL(tmp_path / "rows.jsonl")])
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        pl.Trainer(max_steps=6, default_root_dir=tmp_path, callbacks=[callback], **quiet).fit(Failing(), data)
    assert not callback.monitor._hooks


def test_two_names_of_sinks_are_refused():
    with pytest.raises(TypeError, match="`to` is the former name of `sinks`"):
        huggingface_callback(sinks=Memory(), to=Memory())
    assert huggingface_callback(to=Memory()).arguments["sinks"]
