"""In timm's create_optimizer_v2 and train.py: the family's names in its registry."""

from __future__ import annotations

from .. import optimizers
from ..monitor.sinks import needed

needed("timm", "timm", "aida.integrations.timm")
from timm.optim import OptimInfo  # noqa: E402
from timm.optim._optim_factory import default_registry  # noqa: E402


def register() -> list[str]:
    """Give timm the family's names, and return them: what `create_optimizer_v2(opt=...)` and --opt take.

    They are those of create_optimizer, "aida" and with decoupled weight decay "aidaw", and so on. timm has
    an "adabelief" of its own, which stays timm's: here that member is "aida-adabelief" and "aida-adabeliefw".
    Parameter groups, layer decay and "lookahead_aida" are timm's. Calling it again changes nothing.

    Example:
        register()
        optimizer = timm.optim.create_optimizer_v2(model, "aidaw", weight_decay=0.05, layer_decay=0.7)
    """
    names = []
    for cls in (getattr(optimizers, name) for name in optimizers.__all__):
        member = cls.__name__.lower()
        taken = [name for name in (member, f"{member}w") if default_registry.list_optimizers(name)]
        of_another = any(default_registry.get_optimizer_info(name).opt_class is not cls for name in taken)
        for name, decoupled in ((member, False), (f"{member}w", True)):
            name = f"aida-{name}" if of_another else name
            names.append(name)
            if default_registry.list_optimizers(name):
                continue
            default_registry.register(
                OptimInfo(
                    name=name,
                    opt_class=cls,
                    description=(cls.__doc__ or "").partition("\n")[0],
                    has_betas=True,
                    defaults={"decoupled_weight_decay": decoupled},
                )
            )
    return names
