"""A small vision Transformer of timm's, with layer decay: `python examples/integrations/with_timm.py`."""

import torch
from digits import accuracy, batches
from timm.models.vision_transformer import VisionTransformer
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler

from aida.integrations.timm import register
from aida.monitor import StepsizeMonitor

EPOCHS = 16
register()
torch.manual_seed(0)
vit = VisionTransformer(
    img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=32, depth=3, num_heads=4
)
model = torch.nn.Sequential(torch.nn.Unflatten(1, (1, 8)), vit)
optimizer = create_optimizer_v2(vit, "aidaw", lr=2e-3, eps=1e-16, weight_decay=0.05, layer_decay=0.9)
scheduler = CosineLRScheduler(optimizer, t_initial=EPOCHS, warmup_t=1, warmup_lr_init=1e-4)
with StepsizeMonitor(optimizer, vit, every=20, sinks="stepsizes.jsonl"):
    for epoch in range(EPOCHS):
        scheduler.step(epoch)
        for images, labels in batches():
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
print(f"accuracy {accuracy(model):.3f}")
