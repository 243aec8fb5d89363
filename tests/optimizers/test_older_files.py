"""What was written before there were two distributions loads; tests/data/before_workspace holds it.

There every member was stepped three times on the model below; fourth_step.pt has the parameters after one
more. run/ has runs of `aida compare digits --limit-batches 2 --threads 1`: a finished one of one epoch, and
one of two that was killed after its first.
"""

import pickle
from pathlib import Path

import pytest
import torch

import aida

FOLDER = Path(__file__).parents[1] / "data" / "before_workspace"
STATES = torch.load(FOLDER / "state_dicts.pt", weights_only=True)
FOURTH = torch.load(FOLDER / "fourth_step.pt", weights_only=True)
X = torch.tensor([[0.3, -1.0, 0.7], [1.1, 0.2, -0.4]])


def build():
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))


def stepped(model, optimizer):
    optimizer.zero_grad()
    model(X).square().sum().backward()
    optimizer.step()
    return model.state_dict()


def test_every_member_of_then_is_there():
    assert len(STATES) == 12
    assert {*STATES} <= {*aida.optimizer_names()}


@pytest.mark.parametrize("name", STATES)
def test_a_state_dict_goes_on(name):
    model = build()
    model.load_state_dict(STATES[name]["model"])
    optimizer = aida.create_optimizer(name, model, lr=1e-2)
    optimizer.load_state_dict(STATES[name]["optimizer"])
    torch.testing.assert_close(stepped(model, optimizer), FOURTH[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", STATES)
def test_a_pickled_optimizer_goes_on(name):
    optimizer = pickle.loads(pickle.loads((FOLDER / "optimizers.pkl").read_bytes())[name])
    model = build()
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for own, p in zip(model.parameters(), params, strict=True):
        own.data = p.detach().clone()
    # The pickle holds its parameters: they take the gradients of the model that is like them.
    model.zero_grad()
    model(X).square().sum().backward()
    for own, p in zip(model.parameters(), params, strict=True):
        p.grad = own.grad
    optimizer.step()
    for key, p in zip(FOURTH[name], params, strict=True):
        torch.testing.assert_close(p.detach(), FOURTH[name][key], rtol=1e-6, atol=1e-7)
