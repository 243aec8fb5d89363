"""What helps to tune: eps for a cap, the cap in repr, K as a schedule, presets with their sources."""

import copy
import io
import re
import warnings

import pytest
import torch
from torch.optim.lr_scheduler import ChainedScheduler, ConstantLR, ExponentialLR, LambdaLR, SequentialLR

import aida
from aida.monitor import layer_stepsizes
from helpers.members import assert_bitwise, parameters, set_gradients, snapshot

STEPS = 6
SCHEDULE = {0: 1, 2: 0, 4: 3}
PLANNED = [1, 1, 0, 0, 3, 3]  # K of each step


def optimizer_of(**options):
    return aida.Aida(parameters(dtype=torch.float64), foreach=False, **options)


def step(optimizer, t):
    set_gradients([p for group in optimizer.param_groups for p in group["params"]], t)
    optimizer.step()


def by_hand():
    optimizer = optimizer_of()
    for t, K in enumerate(PLANNED):
        optimizer.param_groups[0]["K"] = K
        step(optimizer, t)
    return snapshot(optimizer)


@pytest.mark.parametrize("cap", [0.5, 10, 316.2, 1e5])
@pytest.mark.parametrize("beta2", [0.9, 0.999])
def test_the_largest_stepsize_is_the_cap(cap, beta2):
    """Of a layer whose residual is zero, so that eps alone is under the root."""
    p = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer = aida.AdamPlus([p], betas=(0.9, beta2), eps=aida.eps_for_cap(cap, beta2))
    p.grad = torch.zeros_like(p)
    optimizer.step()
    (row,) = layer_stepsizes(optimizer)
    assert row["mean"] == pytest.approx(cap, rel=1e-12)
    assert row["cap"] == pytest.approx(cap, rel=1e-12)


@pytest.mark.parametrize("cls", [aida.Aida, aida.AdaBelief, aida.LAdam])
def test_repr_shows_the_cap_of_each_group(cls):
    groups = [{"params": [p]} for p in parameters()]
    groups[1]["eps"] = 1e-5
    optimizer = cls(groups)
    for i, p in enumerate(parameters()):
        optimizer.param_groups[i]["params"][0].grad = torch.zeros_like(p)
    optimizer.step()
    shown = re.findall(r"Parameter Group \d\n    \(cap of the stepsize: (.*)\)\n", repr(optimizer))
    assert shown == [f"{row['cap']:.4g}" for row in layer_stepsizes(optimizer)]
    assert len(set(shown)) == 2
    assert repr(optimizer).startswith(f"{cls.__name__} (\n")


@pytest.mark.parametrize("schedule", [SCHEDULE, lambda t: PLANNED[min(t, 5)]], ids=["mapping", "function"])
def test_K_follows_its_schedule(schedule):
    optimizer = optimizer_of()
    scheduler = aida.KScheduler(optimizer, schedule)
    for t in range(STEPS):
        assert scheduler.get_last_K() == [PLANNED[t]]
        step(optimizer, t)
        scheduler.step()
    assert_bitwise(snapshot(optimizer), by_hand())
    assert type(optimizer.param_groups[0]["K"]) is int


def test_a_schedule_goes_on_from_a_checkpoint():
    def begin():
        optimizer = optimizer_of()
        return optimizer, aida.KScheduler(optimizer, SCHEDULE)

    optimizer, scheduler = begin()
    for t in range(3):
        step(optimizer, t)
        scheduler.step()
    file = io.BytesIO()
    torch.save([optimizer.state_dict(), scheduler.state_dict(), snapshot(optimizer)], file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again, after = begin()
    for p, kept in zip(again.param_groups[0]["params"], optimizer.param_groups[0]["params"], strict=True):
        p.data.copy_(kept)
    again.load_state_dict(saved[0])
    after.load_state_dict(saved[1])
    for t in range(3, STEPS):
        step(again, t)
        after.step()
    assert_bitwise(snapshot(again), by_hand())


@pytest.mark.parametrize(
    "combine",
    [
        lambda o: ChainedScheduler([aida.KScheduler(o, SCHEDULE), ExponentialLR(o, 0.5)]),
        lambda o: ChainedScheduler([ExponentialLR(o, 0.5), aida.KScheduler(o, SCHEDULE)]),
    ],
)
@pytest.mark.parametrize("lr", [1e-3, torch.tensor(1e-3)], ids=["float", "tensor"])
def test_beside_a_scheduler_of_lr(combine, lr):
    """Each sets its own: as without the other."""
    optimizer, alone = optimizer_of(lr=copy.deepcopy(lr)), optimizer_of(lr=1e-3)
    both, of_lr = combine(optimizer), ExponentialLR(alone, 0.5)
    for t in range(STEPS):
        assert optimizer.param_groups[0]["K"] == PLANNED[t]
        assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(alone.param_groups[0]["lr"], rel=1e-6)
        step(optimizer, t)
        step(alone, t)
        both.step()
        of_lr.step()


def test_after_a_scheduler_of_lr_in_a_sequence():
    """A sequence begins its second scheduler anew: K's steps count from there."""
    optimizer = optimizer_of(K=4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.6 warns of its own step(0)
        both = SequentialLR(optimizer, [ConstantLR(optimizer, 1.0), aida.KScheduler(optimizer, {1: 2})], [3])
        seen = []
        for t in range(STEPS):
            seen.append(optimizer.param_groups[0]["K"])
            step(optimizer, t)
            both.step()
    assert seen == [4, 4, 4, 4, 2, 2]


def test_a_schedule_of_one_K_leaves_lr_as_lambdalr_has_it():
    """A negative control: K's scheduler, and not lr's, is what sets K."""
    optimizer = optimizer_of(K=3)
    scheduler = LambdaLR(optimizer, lambda t: 1.0)
    step(optimizer, 0)
    scheduler.step()
    assert optimizer.param_groups[0]["K"] == 3


REFUSED = [
    (lambda: aida.KScheduler(aida.AdamPlus(parameters()), {}), TypeError, "such as Aida, not AdamPlus"),
    (lambda: aida.KScheduler(torch.optim.SGD(parameters()), {}), TypeError, "such as Aida, not SGD"),
    (lambda: aida.KScheduler(optimizer_of(), 3), TypeError, "{step: K} or a function of the step, not 3"),
    (lambda: aida.KScheduler(optimizer_of(), {0: -1}), ValueError, "Invalid K at step 0: -1; it must be an"),
    (lambda: aida.KScheduler(optimizer_of(), {0.5: 1}), ValueError, "Invalid step of K: 0.5; it must be an"),
    (lambda: aida.KScheduler(optimizer_of(), lambda t: 1.5), ValueError, "Invalid K: 1.5; it must be an"),
    (lambda: aida.eps_for_cap(0), ValueError, "Invalid cap: 0; it must be a finite number above 0"),
    (lambda: aida.eps_for_cap(1, 1), ValueError, "Invalid beta2: 1; it must be a finite number of 0 or more"),
]


@pytest.mark.parametrize(("make", "error", "said"), REFUSED)
def test_what_cannot_be_is_refused(make, error, said):
    with pytest.raises(error, match=re.escape(said)):
        make()


def test_every_preset_names_its_source_and_whether_it_was_measured():
    sources = ("not measured", "the code of AdaBelief", "the authors' code", "docs/results/study, Aida K=2")
    for name, settings in aida.presets.items():
        assert sum(map(aida.presets.source(name).count, sources)) == 1, name
        assert settings == aida.presets[name]
    with pytest.raises(KeyError, match="no preset 'vits': did you mean 'vit'"):
        aida.presets.source("vits")
    assert aida.presets["rl"]["eps"] == pytest.approx(aida.eps_for_cap(1e5), rel=1e-12)
    assert {"llm", "vit", "cnn", "lstm", "rl"} <= aida.presets.keys()


def test_what_is_done_to_a_preset_changes_no_other():
    before = {**aida.presets}
    for name in aida.presets:
        for given in (aida.presets[name], aida.presets(name), dict(aida.presets.items())[name]):
            given.update(lr=9.0)
    assert {**aida.presets} == before
    assert repr(aida.presets) == repr(before)
    assert aida.presets.get("vits") is None


@pytest.mark.parametrize("eps", [0, 0.0, -1.0, None, "x"])
def test_repr_shows_a_group_that_the_next_step_refuses(eps):
    optimizer = aida.AdaBelief([torch.nn.Parameter(torch.ones(2))])
    optimizer.param_groups[0]["eps"] = eps
    assert "(cap of the stepsize: none)" in repr(optimizer)


@pytest.mark.parametrize("later", [lambda t: 5, {0: 5}], ids=["function", "mapping"])
@pytest.mark.parametrize("before", [1, 2], ids=["once", "twice"])
def test_a_sequence_sets_K_when_its_turn_has_come(later, before):
    """Each scheduler takes a first step where it is made, which the sequence takes back."""
    optimizer = optimizer_of(K=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.6 warns of its own step(0)
        of_K = [aida.KScheduler(optimizer, {0: 3}) for _ in range(before - 1)]
        last = aida.KScheduler(optimizer, later)
        both = SequentialLR(optimizer, [ConstantLR(optimizer, 1.0), *of_K, last], [3, *(4 for _ in of_K)])
        seen = []
        for t in range(STEPS):
            seen.append(optimizer.param_groups[0]["K"])
            step(optimizer, t)
            both.step()
    assert seen == [2, 2, 2, *([3] if of_K else []), 5, 5, 5][:STEPS]
