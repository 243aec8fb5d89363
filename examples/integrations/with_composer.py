"""MosaicML Composer with its OptimizerMonitor: `python examples/integrations/with_composer.py`."""

import torch
from composer import Trainer
from composer.callbacks import OptimizerMonitor
from composer.loggers import InMemoryLogger
from composer.models import ComposerClassifier
from digits import accuracy, network, train_x, train_y

from aida.integrations.composer import Aida

torch.manual_seed(0)
module = network()
model = ComposerClassifier(module, num_classes=10)
logger = InMemoryLogger()
trainer = Trainer(
    model=model,
    train_dataloader=torch.utils.data.DataLoader(
        list(zip(train_x, train_y, strict=True)), batch_size=64, shuffle=True
    ),
    optimizers=Aida(model.parameters(), lr=3e-3, weight_decay=0.01, decoupled_weight_decay=True),
    max_duration="6ep",
    device="cpu",
    callbacks=[OptimizerMonitor(batch_log_interval=20)],
    loggers=[logger],
    progress_bar=False,
)
trainer.fit()
trainer.close()
print("stepsizes", logger.get_timeseries("stepsize/mean/module.1.weight")["stepsize/mean/module.1.weight"])
print(f"accuracy {accuracy(module):.3f}")
