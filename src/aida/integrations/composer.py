"""In MosaicML Composer: members with the metrics that its OptimizerMonitor asks an optimizer for."""

from __future__ import annotations

import warnings
from math import sqrt
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .. import optimizers
from ..monitor.collect import definition_of, local_layer
from ..monitor.definitions import definition_for, stepped
from ..monitor.layer_sums import EXTREMES, SUMS, layer_sums
from ..monitor.measures import products

MEAN, WEIGHT = "stepsize/mean/", "stepsize/weight/"


class Reporting:
    """What OptimizerMonitor calls: each parameter's metrics, and their reduction over ranks that hold pieces.

    l2_norm/moment, l2_norm/param and l2_norm/update are norms of m, p and the update (without decay), and
    stepsize/mean is the mean of the stepsizes u, over stepsize/weight elements. OptimizerMonitor itself adds
    l2_norm/grad. They are of whole parameters, whatever slices of them are layers. On several ranks they are
    of the rank's piece until dist_reduce_metrics makes them the whole parameter's. With layerwise="post" a
    piece does not know its update, which is then left out; a parameter that shares its layer with others
    knows neither its update nor its stepsize.
    """

    def report_per_parameter_metrics(
        self: Any, param: Tensor, name: str, optimizer_metrics: dict[str, Any]
    ) -> dict[str, Any]:
        """Add the metrics of a parameter that has been stepped, and return them all.

        What fails is warned of and left out: a training does not end for its metrics.
        """
        try:
            optimizer_metrics.update(_metrics(self, param, name))
        except Exception as error:
            warnings.warn(
                f"no metrics of {name} ({type(error).__name__}: {error}); training goes on", stacklevel=2
            )
        return optimizer_metrics

    def pre_reduce_metrics(self, optimizer_metrics: dict[str, Any]) -> dict[str, Any]:
        """What may be summed over ranks: squares of norms, and sums of stepsizes."""
        return {key: _summable(key, x, optimizer_metrics) for key, x in optimizer_metrics.items()}

    def dist_reduce_metrics(self, optimizer_metrics: dict[str, Any]) -> dict[str, Any]:
        """The whole layers' metrics, alike on every rank. Every rank has to call it."""
        keys = sorted(optimizer_metrics)
        if _ranks() > 1:
            of_ranks: list[Any] = [None] * _ranks()
            dist.all_gather_object(of_ranks, keys)
            keys = sorted(set().union(*of_ranks))
        sums = torch.tensor([float(optimizer_metrics.get(key, 0.0)) for key in keys], dtype=torch.float64)
        if _ranks() > 1:
            sums = sums.to("cuda" if dist.get_backend() == "nccl" else "cpu")
            dist.all_reduce(sums)
        total = dict(zip(keys, sums.tolist(), strict=True))
        return {key: _reduced(key, x, total) for key, x in total.items()}


def _metrics(optimizer: Any, p: Tensor, name: str) -> dict[str, float]:
    state = optimizer.state.get(p)
    group = next((g for g in optimizer.param_groups if any(x is p for x in g["params"])), None)
    if group is None or not state or not stepped(group, state):
        return {}
    layering = optimizer.layering
    layers = [_sums(optimizer, part, p, group, state) for part in layering.rows(p)]
    total = {key: sum(sums[key] for sums in layers) for key in layers[0]}
    if not total["weight"]:
        return {}
    post, shared = group.get("layerwise") == "post", layering.key(p) is not None
    said = ["moment", "param"] if post and (shared or _ranks() > 1) else ["moment", "param", "update"]
    metrics = {f"l2_norm/{key}/{name}": sqrt(total[key]) for key in said}
    if not (post and shared):
        metrics |= {f"{MEAN}{name}": total["u"] / total["weight"], f"{WEIGHT}{name}": total["weight"]}
    return metrics


def _sums(optimizer: Any, part: Any, p: Tensor, group: Any, state: Any) -> dict[str, float]:
    """Squares of norms, and the sum and the number of stepsizes, of this rank's piece of a layer."""
    d = definition_of(definition_for(optimizer), optimizer, part, p, group, state)
    here, _, d = local_layer(part, p, None, d)
    if not here.numel():
        return dict.fromkeys(("moment", "param", "update", "u", "weight"), 0.0)
    sums, extremes = (x.tolist() for x in layer_sums(here, None, d))
    s = dict(zip(SUMS, sums, strict=False)) | dict(zip(EXTREMES, extremes, strict=True))
    u, weight = (s["u_moved"], s["moved"]) if d.pooled and s["moved"] else (s["u"], s["n"])
    update = products(s, d.pooled, 0.0)["updates"]
    return {"moment": s["mm"], "param": s["pp"], "update": update, "u": u, "weight": weight}


def _summable(key: str, x: Any, metrics: dict[str, Any]) -> Any:
    if key.startswith(MEAN):
        return x * metrics[WEIGHT + key.removeprefix(MEAN)]
    return x if key.startswith(WEIGHT) else x**2


def _reduced(key: str, x: float, total: dict[str, float]) -> float:
    if key.startswith(MEAN):
        return x / total[WEIGHT + key.removeprefix(MEAN)]
    return x if key.startswith(WEIGHT) else sqrt(x)


def _ranks() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class Aida(Reporting, optimizers.Aida):
    """aida.Aida with the metrics of Reporting; either loads the other's state."""


class AdaBelief(Reporting, optimizers.AdaBelief):
    """aida.AdaBelief with the metrics of Reporting; either loads the other's state."""


class AdamPlus(Reporting, optimizers.AdamPlus):
    """aida.AdamPlus with the metrics of Reporting; either loads the other's state."""


class LAdaBelief(Reporting, optimizers.LAdaBelief):
    """aida.LAdaBelief with the metrics of Reporting; either loads the other's state."""


class LAdam(Reporting, optimizers.LAdam):
    """aida.LAdam with the metrics of Reporting; either loads the other's state."""


class LAida(Reporting, optimizers.LAida):
    """aida.LAida with the metrics of Reporting; either loads the other's state."""
