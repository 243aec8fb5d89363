"""In timm's own factory: names, groups, layer decay, Lookahead; and timm's AdaBelief stays timm's."""

import copy

import pytest
import torch

import aida
from helpers.peers import needed

timm = needed("timm")
from timm.models.vision_transformer import VisionTransformer  # noqa: E402
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers  # noqa: E402
from timm.scheduler import CosineLRScheduler  # noqa: E402

from aida.integrations.timm import register  # noqa: E402

NAMES = {
    "aida": aida.Aida, "aida-adabelief": aida.AdaBelief, "adamplus": aida.AdamPlus, "ladam": aida.LAdam,
    "ladabelief": aida.LAdaBelief, "laida": aida.LAida,
}  # fmt: skip


def vit():
    torch.manual_seed(0)
    return VisionTransformer(img_size=8, patch_size=4, num_classes=3, embed_dim=8, depth=2, num_heads=2)


def test_the_members_are_there_once_and_nothing_of_timms_is_another(caplog):
    before = {name: get_optimizer_info(name) for name in list_optimizers()}
    names = register()
    assert register() == names
    assert not caplog.records, "timm logs a name that is overwritten"
    assert {*names} == {x for name in NAMES for x in (name, f"{name}w")}
    assert {*names} <= {*list_optimizers()}
    for name, info in before.items():
        assert get_optimizer_info(name) is info
    assert get_optimizer_info("adabelief").opt_class is timm.optim.AdaBelief


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("w", ["", "w"])
def test_a_name_makes_its_member(name, w):
    register()
    optimizer = create_optimizer_v2(
        vit(), f"{name}{w}", lr=0.02, weight_decay=0.05, betas=(0.8, 0.9), eps=1e-6
    )
    assert type(optimizer) is NAMES[name]
    for group in optimizer.param_groups:
        assert group["decoupled_weight_decay"] is (w == "w")
        assert (group["lr"], group["betas"], group["eps"]) == (0.02, (0.8, 0.9), 1e-6)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.05]


def test_groups_and_layer_decay_are_as_adamws(recwarn):
    """The oracle is what timm makes for torch's AdamW."""
    register()

    def groups(name):
        model = vit()
        names = {p: n for n, p in model.named_parameters()}
        optimizer = create_optimizer_v2(model, name, lr=0.02, weight_decay=0.05, layer_decay=0.5)
        scheduler = CosineLRScheduler(optimizer, t_initial=4, warmup_t=2, warmup_lr_init=1e-3)
        scheduler.step(1)
        return [
            ([names[p] for p in group["params"]], *(group[key] for key in ("lr", "lr_scale", "weight_decay")))
            for group in optimizer.param_groups
        ]

    assert groups("aidaw") == groups("adamw")
    assert len(groups("aidaw")) > 3
    assert not [w for w in recwarn if "aida" in str(w.filename)]


def test_within_lookahead():
    """timm's Lookahead of ours is its Lookahead of a member that is made by hand."""
    register()
    model = vit()
    twin = copy.deepcopy(model)
    ours = create_optimizer_v2(model.parameters(), "lookahead_aida", lr=0.01, K=1)
    by_hand = timm.optim.Lookahead(aida.Aida(twin.parameters(), lr=0.01, K=1))
    for _ in range(7):
        for each, optimizer in ((model, ours), (twin, by_hand)):
            optimizer.zero_grad()
            each(torch.ones(2, 3, 8, 8)).square().mean().backward()
            optimizer.step()
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)
