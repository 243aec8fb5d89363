"""A small vision Transformer in the Trainer: `python examples/integrations/with_transformers.py`."""

import torch
from digits import test_x, test_y, train_x, train_y
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

from aida.integrations.transformers import StepsizeCallback, optimizer_cls_and_kwargs

torch.manual_seed(0)
config = ViTConfig(image_size=8, patch_size=2, num_channels=1, hidden_size=32, intermediate_size=64,
                   num_hidden_layers=2, num_attention_heads=4, num_labels=10)  # fmt: skip
model = ViTForImageClassification(config)
args = TrainingArguments(
    "vit", num_train_epochs=12, per_device_train_batch_size=64, learning_rate=2e-3, weight_decay=0.05,
    adam_epsilon=1e-16, optim_args="K=2", report_to=[], use_cpu=True, save_strategy="no", disable_tqdm=True,
)  # fmt: skip


def examples(images, labels):
    return [{"pixel_values": x[None], "labels": y} for x, y in zip(images, labels, strict=True)]


trainer = Trainer(
    model,
    args,
    train_dataset=examples(train_x, train_y),
    optimizer_cls_and_kwargs=optimizer_cls_and_kwargs(args),  # instead of optim="adamw_torch"
)
trainer.add_callback(StepsizeCallback(trainer, every=20, sinks=["logger", "stepsizes.jsonl"]))
trainer.train()
logits = trainer.predict(examples(test_x, test_y)).predictions
print(f"accuracy {(logits.argmax(1) == test_y.numpy()).mean():.3f}")
