"""What MosaicML Composer's OptimizerMonitor calls, and the monitor itself where Composer is installed."""

import copy
import pickle

import pytest
import torch
from torch import nn

import aida
from aida.integrations import composer
from aida.monitor import layer_stepsizes
from helpers import layered
from helpers.members import MEMBERS, OWN, train
from helpers.peers import needed


def stepped(cls, **own):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).double()
    optimizer = cls(model.parameters(), **own)
    train(optimizer, range(3))
    return model, optimizer


def reported(model, optimizer):
    """As OptimizerMonitor asks, parameter by parameter, with what it has so far."""
    metrics = {}
    for name, p in model.named_parameters():
        metrics.update(optimizer.report_per_parameter_metrics(p, name, metrics))
    return metrics


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("own", [{}, {"weight_decay": 0.1}, {"layerwise": "post"}])
def test_the_metrics_are_what_the_layers_did(member, own):
    if "layerwise" in own and "layerwise" not in member.own:
        return
    cls = getattr(composer, member.__name__)
    model, optimizer = stepped(cls, **own)
    metrics = reported(model, optimizer)
    before = copy.deepcopy(model)
    again = pickle.loads(pickle.dumps(optimizer.state_dict()))
    plain = member(before.parameters(), **own)
    plain.load_state_dict(again)  # either loads the other's
    rows = {row["parameter"]: row for row in layer_stepsizes(optimizer, model)}
    for name, p in model.named_parameters():
        assert metrics[f"stepsize/mean/{name}"] == pytest.approx(rows[name]["mean"], rel=1e-12)
        m = optimizer.state[p]["exp_avg"]
        assert metrics[f"l2_norm/moment/{name}"] == pytest.approx(m.norm().item(), rel=1e-12)
        assert metrics[f"l2_norm/param/{name}"] == pytest.approx(p.norm().item(), rel=1e-12)
        expected = rows[name]["update_ratio"] * rows[name]["p_norm"]
        assert metrics[f"l2_norm/update/{name}"] == pytest.approx(expected, rel=1e-12)


def test_the_update_is_how_far_the_parameter_went():
    model, optimizer = stepped(composer.Aida)
    before = [p.detach().clone() for p in model.parameters()]
    train(optimizer, [3])
    metrics = reported(model, optimizer)
    for old, (name, p) in zip(before, model.named_parameters(), strict=True):
        assert metrics[f"l2_norm/update/{name}"] == pytest.approx((p - old).norm().item(), rel=1e-9)


@pytest.mark.parametrize("layers", layered.LAYERS, ids=["module", "mixed"])
@pytest.mark.parametrize(("member", "own"), [(c, own) for c, settings in OWN.items() for own in settings])
def test_layers_of_slices_and_of_several_tensors(member, own, layers):
    """They are of the whole tensor, as it moved; what its layer's other tensors tell is left out."""
    params = layered.parameters()
    named = dict(zip(layered.NAMES, params, strict=True))
    cls = getattr(composer, member.__name__)
    optimizer = cls([*named.items()], layers=layers, **layered.SHARED, **own)
    for t in (1, 2):
        before = {name: p.detach().clone() for name, p in named.items()}
        layered.gradients(params, t)
        optimizer.step()
    rows = {row["parameter"]: row for row in layer_stepsizes(optimizer)}
    metrics = {}
    for name, p in named.items():
        metrics |= optimizer.report_per_parameter_metrics(p, name, metrics)
    post = optimizer.param_groups[0].get("layerwise") == "post"
    for name, p in named.items():
        of_p = [
            (rows[called], layer)
            for called, layer in zip(layered.CALLED[layers], layered.LAYERS[layers], strict=True)
            if any(part == name for part, _ in layer)
        ]
        shared = len(of_p[0][1]) > 1
        m = optimizer.state[p]["exp_avg"]
        assert metrics[f"l2_norm/moment/{name}"] == pytest.approx(m.norm().item(), rel=1e-12)
        assert metrics[f"l2_norm/param/{name}"] == pytest.approx(p.norm().item(), rel=1e-12)
        said = {f"l2_norm/update/{name}", f"stepsize/mean/{name}", f"stepsize/weight/{name}"} & {*metrics}
        assert len(said) == (0 if post and shared else 3)
        if said:
            moved = (p.detach() - before[name]).norm().item()
            assert metrics[f"l2_norm/update/{name}"] == pytest.approx(moved, rel=1e-9)
            assert metrics[f"stepsize/weight/{name}"] == p.numel()
        if said and not shared:
            mean = sum(row["mean"] * row["numel"] for row, _ in of_p) / p.numel()
            assert metrics[f"stepsize/mean/{name}"] == pytest.approx(mean, rel=1e-12)
    again = optimizer.dist_reduce_metrics(optimizer.pre_reduce_metrics(metrics))
    assert again == pytest.approx(metrics, rel=1e-12)


def test_what_cannot_be_measured_is_warned_of_and_training_goes_on():
    model, optimizer = stepped(composer.Aida)
    first, *others = model.named_parameters()
    del optimizer.state[first[1]]["exp_avg_var"]
    with pytest.warns(
        UserWarning, match=r"no metrics of 0\.weight \(KeyError: 'exp_avg_var'\); training goes on"
    ):
        metrics = reported(model, optimizer)
    assert {key.partition("/mean/")[2] for key in metrics if "/mean/" in key} == {name for name, _ in others}


def test_pieces_of_two_ranks_make_the_layers_metrics(monkeypatch):
    """Each rank's sums, added as all_reduce adds them."""
    model, optimizer = stepped(composer.Aida)
    whole = reported(model, optimizer)
    ranks = []
    for rows in (slice(0, 1), slice(1, None)):
        pieces = nn.Module()
        part = composer.Aida([torch.zeros(1)])
        part.param_groups[0]["params"] = []
        for name, p in model.named_parameters():
            piece = nn.Parameter(p.detach()[rows].clone())
            pieces.register_parameter(name.replace(".", "_"), piece)
            part.param_groups[0]["params"].append(piece)
            state = optimizer.state[p]
            part.state[piece] = {k: x if x.ndim == 0 else x[rows] for k, x in state.items()}
        metrics = {}
        for name, p in zip(dict(model.named_parameters()), pieces.parameters(), strict=True):
            part.report_per_parameter_metrics(p, name, metrics)
        ranks.append(part.pre_reduce_metrics(metrics))
    summed = {key: ranks[0][key] + ranks[1][key] for key in whole}
    reduced = optimizer.dist_reduce_metrics(summed)
    assert reduced == pytest.approx(whole, rel=1e-12)
    assert optimizer.dist_reduce_metrics(optimizer.pre_reduce_metrics(whole)) == pytest.approx(
        whole, rel=1e-12
    )


def test_what_has_not_been_stepped_has_no_metrics():
    model = nn.Linear(2, 2)
    optimizer = composer.Aida(model.parameters())
    assert reported(model, optimizer) == {}
    assert optimizer.report_per_parameter_metrics(nn.Parameter(torch.ones(1)), "other", {"a": 1}) == {"a": 1}


def test_classes_pickle():
    for member in MEMBERS:
        cls = getattr(composer, member.__name__)
        assert issubclass(cls, aida.Layerwise)
        assert pickle.loads(pickle.dumps(cls)) is cls


def test_in_the_real_trainer():
    needed("composer")
    from composer import Trainer
    from composer.callbacks import OptimizerMonitor
    from composer.loggers import InMemoryLogger
    from composer.models import ComposerClassifier

    model = ComposerClassifier(nn.Linear(4, 2), num_classes=2)
    data = [(torch.randn(4, generator=torch.Generator().manual_seed(i)), i % 2) for i in range(8)]
    logger = InMemoryLogger()
    optimizer = composer.Aida(model.parameters())
    trainer = Trainer(
        model=model, train_dataloader=torch.utils.data.DataLoader(data, batch_size=2), optimizers=optimizer,
        max_duration="1ep", device="cpu", callbacks=[OptimizerMonitor(batch_log_interval=1)],
        loggers=[logger], progress_bar=False,
    )  # fmt: skip
    trainer.fit()
    trainer.close()
    (row, _) = layer_stepsizes(optimizer, model)
    name = row["parameter"]
    series = logger.get_timeseries(f"stepsize/mean/{name}")[f"stepsize/mean/{name}"]
    assert len(series) == 4
    assert series[-1] == pytest.approx(row["mean"], rel=1e-6)
    assert len(logger.get_timeseries(f"l2_norm/update/{name}")[f"l2_norm/update/{name}"]) == 4
