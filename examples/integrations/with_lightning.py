"""A small network in Lightning: `python examples/integrations/with_lightning.py`."""

import pytorch_lightning as pl  # or lightning.pytorch
import torch
from digits import accuracy, network, train_x, train_y
from pytorch_lightning.loggers import CSVLogger

import aida
from aida.integrations.lightning import StepsizeCallback


class Digits(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = network()

    def training_step(self, batch, _):
        return torch.nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self):
        return aida.create_optimizer("aidaw", self, lr=3e-3, no_decay="norms_and_biases")


pl.seed_everything(0)
model = Digits()
loader = torch.utils.data.DataLoader(list(zip(train_x, train_y, strict=True)), batch_size=64, shuffle=True)
trainer = pl.Trainer(
    max_epochs=6,
    accelerator="cpu",
    logger=CSVLogger("logs"),
    callbacks=[StepsizeCallback(every=20, sinks=["logger", "stepsizes.jsonl"])],
)
trainer.fit(model, loader)
print(f"accuracy {accuracy(model.network):.3f}")
