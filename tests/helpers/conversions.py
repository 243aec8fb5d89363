"""The other libraries' optimizers, built as a user would, and a run that changes from one to ours."""

import contextlib
import copy
import io

import pytest
import torch

import aida
from helpers.members import parameters, set_gradients, through_a_file, train

SHAPES = ((4, 3), (5,), (2, 3, 2))
BEFORE, AFTER = 7, 30


def build(module, name, params, **arguments):
    """An optimizer of a package, without what it prints."""
    package = torch.optim if module == "torch" else pytest.importorskip(module)
    with contextlib.redirect_stdout(io.StringIO()):
        return getattr(package, name)(params, **arguments)


def copies(params):
    return [torch.nn.Parameter(p.detach().clone()) for p in params]


def trained(make, dtype=torch.float64, steps=BEFORE, scale=0.1):
    """(the source after its first steps, its state as a file gives it back)."""
    source = make(parameters(SHAPES, dtype))
    train(source, range(steps), scale)
    return source, through_a_file(source.state_dict())


def both_go_on(source, optimizer, steps=range(BEFORE, BEFORE + AFTER), scale=0.1):
    """(the largest difference of parameters after any step, the same against what the parameters moved)."""
    theirs, ours = ([p for g in o.param_groups for p in g["params"]] for o in (source, optimizer))
    before = [p.detach().clone() for p in theirs]
    worst = 0.0
    for t in steps:
        set_gradients(theirs, t, scale)
        set_gradients(ours, t, scale)
        source.step()
        optimizer.step()
        worst = max(worst, *((a - b).abs().max().item() for a, b in zip(theirs, ours, strict=True)))
    moved = max((a - b).abs().max().item() for a, b in zip(theirs, before, strict=True))
    return worst, worst / moved


def converted(cls, old, state, given=None, **arguments):
    """Ours, over copies of the parameters of `old`, with its state; `given`: arguments of its own."""
    optimizer = cls(copies([p for g in old.param_groups for p in g["params"]]), **(given or {}))
    before, live = copy.deepcopy(state), copy.deepcopy(optimizer.state_dict())
    made = aida.convert_state(state, optimizer, **arguments)
    assert str(state) == str(before)
    assert str(optimizer.state_dict()) == str(live)
    optimizer.load_state_dict(made)
    return optimizer
