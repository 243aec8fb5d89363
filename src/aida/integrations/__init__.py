"""This library inside its users' tools, a module for each, which imports that tool alone.

    from aida.integrations.transformers import StepsizeCallback, optimizer_cls_and_kwargs
    from aida.integrations.lightning import StepsizeCallback
    from aida.integrations.accelerate import Trackers
    from aida.integrations.timm import register
    from aida.integrations.composer import Aida
    from aida.integrations.keras import Optimizer

Nothing here is imported with aida itself. docs/guide/trainers.md has the lines that each tool needs.
"""
