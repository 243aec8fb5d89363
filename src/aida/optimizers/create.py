"""An optimizer by name, with weight decay only where it is wanted."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT

from .. import optimizers

DECAY = 1e-2  # AdamW's default in torch

NORMS_AND_BIASES = "norms_and_biases"
AND_EMBEDDINGS = "norms_biases_and_embeddings"


def optimizer_names() -> list[str]:
    """Every name that create_optimizer knows: the members, with and without a w, then torch.optim's.

    Example:
        >>> import aida
        >>> {"aida", "aidaw", "adamw"} <= set(aida.optimizer_names())
        True
    """
    return [*_classes()]


def create_optimizer(
    name: str,
    params: torch.nn.Module | ParamsT,
    *,
    no_decay: str | Iterable[str] | None = (),
    **arguments: Any,
) -> Optimizer:
    """The optimizer of a name, with weight decay only where it is wanted.

    Arguments:
        name: any case; a member ("aida", "ladam"), a member with a w ("aidaw"), which is to it what AdamW is
            to Adam (decoupled weight decay, of 1e-2 unless given), or one of torch.optim ("adamw", "sgd").
        params: a model, whose trainable parameters are taken with their names, or what torch.optim takes.
        no_decay: what gets weight_decay=0. "norms_and_biases": every parameter of fewer than two dimensions;
            "norms_biases_and_embeddings": those of nn.Embedding and EmbeddingBag too, and what is tied to
            them, which needs the model itself; patterns of names (as in fnmatch), such as "*.bias", need
            names; or several of these. Default: nothing.
        **arguments: the optimizer's own.

    Raises TypeError for what is no name, ValueError for an unknown name, with the nearest one, for a no_decay
    that cannot be told, and for decoupled_weight_decay=False beside a w.

    Example:
        >>> import aida, torch
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.LayerNorm(3))
        >>> optimizer = aida.create_optimizer("aidaw", model, weight_decay=0.1, no_decay="norms_and_biases")
        >>> [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
        [(1, 0.1), (3, 0.0)]
    """
    classes = _classes()
    if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        what = name.__name__ if isinstance(name, type) else repr(name)
        raise TypeError(
            f"create_optimizer takes a name, such as 'aida', not {what}: a class is called itself, as "
            "aida.Aida(model.parameters())"
        )
    if name.lower() not in classes:
        near = difflib.get_close_matches(name.lower(), classes, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(classes)}"
        raise ValueError(f"unknown optimizer {name!r}: {hint}")
    cls, own = classes[name.lower()]
    if own and not arguments.get("decoupled_weight_decay", True):
        raise ValueError(
            f"{name!r} has decoupled weight decay, not decoupled_weight_decay="
            f"{arguments['decoupled_weight_decay']!r}: for coupled decay ask for {name[:-1]!r}"
        )
    given: Any = params
    model = params if isinstance(params, torch.nn.Module) else None
    if model is not None:
        given = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        if not given:
            raise ValueError("the model has no trainable parameter: every requires_grad is False")
    words = (no_decay,) if isinstance(no_decay, str) else tuple(no_decay or ())
    if words:
        given = _split(list(given), words, model)
    return cls(given, **{**own, **arguments})


def _split(params: list[Any], words: tuple[str, ...], model: torch.nn.Module | None) -> list[dict[str, Any]]:
    """Two groups: decayed as asked, and not at all."""
    tests = [_test(word, model) for word in words]
    named: list[Any] = [entry if isinstance(entry, tuple) else (None, entry) for entry in params]
    if any(isinstance(p, dict) for _, p in named):
        raise ValueError(
            f"no_decay={words} makes the groups itself: give the model, not groups of parameters"
        )
    if not {*words} <= {NORMS_AND_BIASES, AND_EMBEDDINGS} and any(name is None for name, _ in named):
        raise ValueError(
            f"no_decay={words} needs parameter names: give the model itself or model.named_parameters()"
        )
    spared = [any(test(name, p) for test in tests) for name, p in named]
    if named and not any(spared):
        warnings.warn(
            f"no_decay={words} matches no parameter; the names are like {named[0][0]!r}, and "
            f"{NORMS_AND_BIASES!r} is what has fewer than two dimensions",
            stacklevel=3,
        )
    groups = [
        {"params": [entry for entry, spare in zip(params, spared, strict=True) if not spare]},
        {
            "params": [entry for entry, spare in zip(params, spared, strict=True) if spare],
            "weight_decay": 0.0,
        },
    ]
    return [group for group in groups if group["params"]]


def _test(word: str, model: torch.nn.Module | None) -> Callable[[str, Tensor], bool]:
    """Whether a word spares a parameter, of its name and itself."""
    if word == NORMS_AND_BIASES:
        return lambda name, p: _dimensions(p) < 2
    if word != AND_EMBEDDINGS:
        return lambda name, p: fnmatchcase(name, word)
    if model is None:
        raise ValueError(
            f"no_decay={word!r} has to know which layers are embeddings: give the model itself, or "
            f"{NORMS_AND_BIASES!r} and patterns of the embeddings' names"
        )
    kinds = (torch.nn.Embedding, torch.nn.EmbeddingBag)
    embeddings = {p for m in model.modules() if isinstance(m, kinds) for p in m.parameters(recurse=False)}
    return lambda name, p: _dimensions(p) < 2 or p in embeddings


def _dimensions(p: Tensor) -> int:
    """Of the whole parameter; ValueError where they are not to be seen."""
    if torch.nn.parameter.is_lazy(p):
        raise ValueError(
            "a lazy module's parameter has no dimensions yet: run one batch through the model first"
        )
    if getattr(p, "_fsdp_flattened", False):
        raise ValueError(
            "FullyShardedDataParallel has flattened the parameters, so that their dimensions are lost: give "
            "no_decay patterns of names, or shard with torch.distributed.fsdp.fully_shard"
        )
    return p.dim()


def _classes() -> dict[str, tuple[type[Optimizer], dict[str, Any]]]:
    """Each name's class, and what the name itself says of its arguments."""
    decoupled = dict(weight_decay=DECAY, decoupled_weight_decay=True)
    ours = {n.lower(): (getattr(optimizers, n), {}) for n in optimizers.__all__}
    ours |= {f"{n}w": (cls, decoupled) for n, (cls, _) in ours.items()}
    found = {n.lower(): c for n, c in vars(torch.optim).items() if isinstance(c, type)}
    theirs = {n: (c, {}) for n, c in found.items() if issubclass(c, Optimizer) and c is not Optimizer}
    return {**ours, **theirs}
