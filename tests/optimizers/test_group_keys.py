"""Names that a group may hold: those of other libraries, misspelled ones, and a user's own."""

import warnings
from collections import OrderedDict

import pytest
import torch

import aida
from helpers.members import MEMBERS, assert_bitwise, parameters, snapshot, through_a_file, train

OTHERS = {
    "weight_decouple": "decoupled_weight_decay",
    "decoupled_decay": "decoupled_weight_decay",
    "learning_rate": "lr",
    "beta1": "betas",
    "b2": "betas",
    "momentum": "betas",
    "epsilon": "eps",
    "eps_root": "eps",
    "wd": "weight_decay",
    "k": "K",
    "mu_dtype": "state_dtype",
    "wieght_decay": "weight_decay",
    "maximise": "maximize",
    "decoupled_weight_deacy": "decoupled_weight_decay",
}


@pytest.mark.parametrize(("name", "meant"), OTHERS.items())
def test_a_name_from_elsewhere_gets_ours(name, meant):
    with pytest.raises(TypeError, match=f"Aida has no argument '{name}': did you mean '{meant}'"):
        aida.Aida(parameters(), **{name: 0.1})
    with pytest.warns(UserWarning, match=f"parameter group 0 of Aida keeps the key '{name}'.*mean '{meant}'"):
        aida.Aida([{"params": parameters(), name: 0.1}])


def test_what_no_member_has_is_said():
    with pytest.raises(TypeError, match="no argument 'amsgrad': nothing in this family does what it does"):
        aida.Aida(parameters(), amsgrad=True)
    with pytest.raises(TypeError, match=r"AdaBelief has no argument 'k': (?!.*'K')"):
        aida.AdaBelief(parameters(), k=2)
    with pytest.warns(UserWarning, match="leaves out the key 'K', which only other members"):
        aida.AdaBelief([{"params": parameters(), "K": 2}])


@pytest.mark.parametrize("other", MEMBERS)
@pytest.mark.parametrize("cls", MEMBERS)
@pytest.mark.filterwarnings("ignore:.*leaves out the key")
def test_the_groups_of_another_member_are_taken(cls, other):
    """What only the other one has is neither stepped by nor saved, and the other one keeps it."""
    given = other(parameters()).param_groups
    kept = [{**group} for group in given]
    optimizer, plain = cls(given), cls(parameters())
    for one in (optimizer, plain):
        train(one, range(3))
    assert_bitwise(snapshot(optimizer), snapshot(plain))
    cls(parameters()).load_state_dict(through_a_file(optimizer.state_dict()))
    assert [group.keys() >= before.keys() for group, before in zip(given, kept, strict=True)] == [True]


USERS = (
    *(
        "is_last_layer",
        "lr_multiplier",
        "layer_id",
        "tag",
        "wd_mult",
        "lr_mult",
        "lr_scale",
        "group_name",
        "id",
    ),
    *("depth", "apply_lars", "wd_scale", "no_decay", "frozen", "rho", "adaptive", "ema", "base_lr", "scale"),
    *("module_name", "use_muon", "rank"),
)


@pytest.mark.parametrize("cls", MEMBERS)
def test_keys_of_a_users_own_are_kept_without_a_word(cls):
    """In a constructor, an added group and a checkpoint, as in torch; SAM's wrappers and DINO need it."""
    own = {key: i for i, key in enumerate(USERS)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = cls([{"params": parameters()[:1], **own}])
        optimizer.add_param_group({"params": parameters()[1:], **own})
        state = through_a_file(optimizer.state_dict())
        (other := cls([{"params": g["params"]} for g in optimizer.param_groups])).load_state_dict(state)
    for group in (*optimizer.param_groups, *other.param_groups):
        assert group.items() >= own.items()


@pytest.mark.parametrize(
    "key", ["betsa", "lrr", "esp", "wieght_decay", "capturabel", "Eps", "sed", "weight-decay"]
)
def test_a_key_near_a_known_one_warns(key):
    with pytest.warns(UserWarning, match=f"keeps the key '{key}' and does not use it: did you mean"):
        optimizer = aida.Aida([{"params": parameters(), key: 1}])
    assert optimizer.param_groups[0][key] == 1


@pytest.mark.parametrize("cls", MEMBERS)
def test_groups_of_torchs_adamw_are_taken(cls):
    groups = torch.optim.AdamW(parameters(), lr=0.5).param_groups
    groups[0].setdefault("decoupled_weight_decay", True)  # older ones do not name their kind
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        group = cls([OrderedDict(g) for g in groups]).param_groups[0]
    assert (group["lr"], group["weight_decay"], group["decoupled_weight_decay"]) == (0.5, 0.01, True)
