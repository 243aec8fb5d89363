"""The monitor inside trainers that own the loop: the real ones, on a model of two layers."""

import pytest
import torch
from torch import nn

import aida
from aida.monitor import JSONL
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
