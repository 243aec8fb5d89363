"""What torch.optim promises of an optimizer, kept by every member: errors, checkpoints, schedulers, hooks."""

import copy
import io
import pickle

import pytest
import torch
from torch.testing._internal.common_optimizers import OptimizerErrorEnum

import aida
from helpers.members import MEMBERS, assert_bitwise, parameters, set_gradients, snapshot, train
from helpers.optimizer_infos import ERRORS, INFOS, INPUTS, SCHEDULERS

every_member = pytest.mark.parametrize("cls", MEMBERS)
every_input = pytest.mark.parametrize(("cls", "entry"), INPUTS, ids=[entry.desc for _, entry in INPUTS])


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_the_table_has_every_member():
    assert {info.name for info in INFOS} == {
        name for name in aida.__all__ if name != "Layerwise" and is_of_the_family(getattr(aida, name))
    }


def is_of_the_family(public):
    return isinstance(public, type) and issubclass(public, aida.Layerwise)


@pytest.mark.parametrize(
    ("cls", "error"), ERRORS, ids=[f"{c.__name__}-{e.optimizer_error_input.desc}" for c, e in ERRORS]
)
def test_a_wrong_argument_says_what_and_why(cls, error):
    entry = error.optimizer_error_input
    params = parameters() if entry.params is None else entry.params
    kind = pytest.warns if issubclass(error.error_type, Warning) else pytest.raises
    if error.error_on is OptimizerErrorEnum.STEP_ERROR:
        optimizer = cls(params, **entry.kwargs)
        with kind(error.error_type, match=error.error_regex):
            optimizer.step()
    else:
        with kind(error.error_type, match=error.error_regex):
            cls(params, **entry.kwargs)


@every_member
def test_a_refused_group_leaves_the_optimizer_as_it_was(cls):
    optimizer = cls(parameters())
    with pytest.raises(ValueError, match="Invalid eps"):
        optimizer.add_param_group({"params": parameters(), "eps": -1.0})
    assert len(optimizer.param_groups) == 1


@every_input
def test_a_checkpoint_in_mid_run_continues_bitwise(cls, entry):
    optimizer = cls(parameters(), **entry.kwargs)
    train(optimizer, range(3))
    saved = through_a_file(optimizer.state_dict())
    params = [torch.nn.Parameter(p.detach().clone()) for p in optimizer.param_groups[0]["params"]]
    resumed = cls(params)
    resumed.load_state_dict(saved)
    hyper = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    assert hyper == {k: v for k, v in resumed.param_groups[0].items() if k != "params"}
    assert hyper.items() >= entry.kwargs.items()
    for o in (optimizer, resumed):
        train(o, range(3, 6))
    assert_bitwise(snapshot(resumed), snapshot(optimizer))


@every_input
@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_continues_alone_and_bitwise(cls, entry, duplicate):
    optimizer = cls(parameters(), **entry.kwargs)
    train(optimizer, range(3))
    twin, before = duplicate(optimizer), snapshot(optimizer)
    train(twin, range(3, 6))
    assert_bitwise(snapshot(optimizer), before)
    train(optimizer, range(3, 6))
    assert_bitwise(snapshot(twin), snapshot(optimizer))


@every_member
def test_a_loaded_state_shares_no_memory_with_its_source(cls):
    optimizer, other = cls(parameters()), cls(parameters())
    train(optimizer, range(2))
    other.load_state_dict(optimizer.state_dict())
    before = snapshot(optimizer)
    train(other, range(2, 4))
    assert_bitwise(snapshot(optimizer), before)


@every_member
def test_a_state_of_an_older_version_is_completed(cls):
    optimizer, reference = cls(parameters(), lr=0.02), cls(parameters(), lr=0.02)
    for o in (optimizer, reference):
        train(o, range(3))
    old = optimizer.state_dict()
    for group in old["param_groups"]:
        # Without any key of ours it would be the published code's, whose v has eps inside.
        for key in set(group) - {"params", "lr", "betas", "eps", "weight_decay", "maximize"}:
            del group[key]
    for state in old["state"].values():
        state["step"] = int(state["step"])
    optimizer.load_state_dict(old)
    assert set(optimizer.param_groups[0]) == set(reference.param_groups[0])
    for o in (optimizer, reference):
        train(o, range(3, 6))
    assert_bitwise(snapshot(optimizer), snapshot(reference))


@every_member
def test_groups_have_their_own_hyperparameters(cls):
    first, second = parameters(), parameters()
    own = {k: {"K": 1, "xi": 1e-6, "layerwise": "post"}[k] for k in cls.own}
    extra = {"lr": 0.05, "betas": (0.5, 0.9), "eps": 1e-5, "weight_decay": 0.1, **own}
    together = cls(first)
    together.add_param_group({"params": second, **extra})
    apart = [cls(parameters()), cls(parameters(), **extra)]
    for t in range(4):
        set_gradients(first, t)
        set_gradients(second, t)
        together.step()
    for o in apart:
        train(o, range(4))
    assert_bitwise(snapshot(together), [x for o in apart for x in snapshot(o)])


@every_member
@pytest.mark.parametrize("foreach", [False, True])
def test_a_tensor_lr_is_a_number(cls, foreach):
    number = cls(parameters(dtype=torch.float64), lr=0.25, foreach=foreach)
    tensor = cls(parameters(dtype=torch.float64), lr=torch.tensor(0.25), foreach=foreach)
    for o in (number, tensor):
        train(o, range(3))
    torch.testing.assert_close(snapshot(tensor), snapshot(number), rtol=1e-14, atol=0)
    tensor.param_groups[0]["lr"].fill_(0.0)
    before = [p.detach().clone() for p in tensor.param_groups[0]["params"]]
    train(tensor, [3])
    assert_bitwise([p.detach() for p in tensor.param_groups[0]["params"]], before)


@every_member
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("lr", [0.02, torch.tensor(0.02)], ids=["number", "tensor"])
def test_a_scheduler_is_followed(cls, scheduler, lr):
    """Bitwise the run whose lr and betas are set by hand, and not the run at a constant lr."""
    lr = lr.clone() if isinstance(lr, torch.Tensor) else lr
    scheduled, by_hand, constant = (cls(parameters(), lr=copy.deepcopy(lr)) for _ in range(3))
    schedule, seen = SCHEDULERS[scheduler](scheduled), set()
    for t in range(10):
        group = scheduled.param_groups[0]
        seen.add((float(group["lr"]), tuple(group["betas"])))
        by_hand.param_groups[0].update(lr=copy.deepcopy(group["lr"]), betas=tuple(group["betas"]))
        for o in (scheduled, by_hand, constant):
            train(o, [t])
        schedule.step(*([1.0] if scheduler == "plateau" else []))
    assert_bitwise(snapshot(scheduled), snapshot(by_hand))
    assert not torch.equal(snapshot(scheduled)[0], snapshot(constant)[0])
    assert len({lr for lr, _ in seen}) > 1
    assert (len({betas for _, betas in seen}) > 1) == (scheduler == "one cycle")


@every_member
def test_a_scheduled_group_can_be_given_to_a_new_optimizer(cls):
    optimizer = cls(parameters())
    SCHEDULERS["one cycle"](optimizer)
    assert cls(optimizer.param_groups).param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


@every_member
def test_a_closure_has_gradients_and_its_loss_is_returned(cls):
    (p,) = parameters([(3,)])
    optimizer, before = cls([p]), p.detach().clone()

    def closure():
        assert torch.is_grad_enabled()
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert loss.item() == (before**2).sum().item()
    assert not torch.equal(p, before)
    assert optimizer.step() is None


@every_input
@pytest.mark.parametrize("foreach", [False, True])
def test_maximizing_the_negative_is_minimizing(cls, entry, foreach):
    up, down = (
        cls(parameters(), **{**entry.kwargs, "maximize": m, "foreach": foreach}) for m in (True, False)
    )
    for t in range(4):
        for o, scale in ((up, -1.0), (down, 1.0)):
            train(o, [t], scale)
    assert_bitwise(snapshot(up), snapshot(down))


@every_member
def test_hooks_run_in_order(cls):
    optimizer, calls = cls(parameters()), []
    optimizer.register_step_pre_hook(lambda o, args, kwargs: calls.append("before step"))
    optimizer.register_step_post_hook(lambda o, args, kwargs: calls.append("after step"))
    optimizer.register_state_dict_pre_hook(lambda o: calls.append("before save"))
    optimizer.register_state_dict_post_hook(lambda o, s: {**s, "note": 1})
    optimizer.register_load_state_dict_pre_hook(lambda o, s: calls.append(f"before load {s['note']}"))
    optimizer.register_load_state_dict_post_hook(lambda o: calls.append("after load"))
    train(optimizer, [0])
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls == ["before step", "after step", "before save", "before load 1", "after load"]


@every_member
def test_a_load_hook_may_replace_the_state(cls):
    """The moments that are restored in their own type are the hook's, not those given."""
    optimizer = cls(parameters(dtype=torch.bfloat16))
    train(optimizer, range(2))
    empty = cls(parameters(dtype=torch.bfloat16)).state_dict()
    optimizer.register_load_state_dict_pre_hook(lambda o, s: empty)
    optimizer.load_state_dict(optimizer.state_dict())
    assert not any(optimizer.state.values())


@every_member
def test_named_parameters_keep_their_names(cls):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    optimizer = cls(model.named_parameters())
    names = [n for n, _ in model.named_parameters()]
    assert optimizer.param_groups[0]["param_names"] == names
    train(optimizer, [0])
    other = cls(model.named_parameters())
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    assert other.state_dict()["param_groups"][0]["param_names"] == names
