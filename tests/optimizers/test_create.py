"""Optimizers by name, presets, and what importing the library costs."""

import inspect
import subprocess
import sys

import pytest
import torch

import aida
from helpers.members import MEMBERS, parameters, train

FAMILY = [cls.__name__.lower() for cls in MEMBERS]


def model():
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 1))


@pytest.mark.parametrize(
    ("name", "cls"),
    [*zip(FAMILY, MEMBERS, strict=True), ("LAdaBelief", aida.LAdaBelief), ("AdamW", torch.optim.AdamW),
     ("sgd", torch.optim.SGD), ("rmsprop", torch.optim.RMSprop)],
)  # fmt: skip
def test_a_name_gives_the_optimizer_with_its_arguments(name, cls):
    optimizer = aida.create_optimizer(name, model(), lr=0.25)
    assert type(optimizer) is cls
    assert optimizer.param_groups[0]["lr"] == 0.25


def test_every_name_that_is_told_is_known():
    names = aida.optimizer_names()
    assert set(names[: 2 * len(FAMILY)]) == {*FAMILY, *(f"{name}w" for name in FAMILY)}
    assert {"adam", "adamw", "sgd", "lbfgs"} <= set(names)
    assert "optimizer" not in names
    for name in set(names) - {"sparseadam", "muon"}:  # which take no ordinary layers of every shape
        aida.create_optimizer(name, parameters([(3, 2)]))


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [("adia", "'aida'"), ("ladabelif", "'ladabelief'"), ("adam-w", "'adamw'"), ("0", "known are .*aida")],
)
def test_an_unknown_name_gets_the_nearest(wrong, hint):
    with pytest.raises(ValueError, match=f"unknown optimizer '{wrong}': .*{hint}"):
        aida.create_optimizer(wrong, model())


@pytest.mark.parametrize(("wrong", "told"), [(aida.Aida, "Aida"), (None, "None")])
def test_what_is_no_name_is_refused(wrong, told):
    with pytest.raises(
        TypeError, match=f"^create_optimizer takes a name, such as 'aida', not {told}: a class"
    ):
        aida.create_optimizer(wrong, model())


@pytest.mark.parametrize("build", [model, lambda: torch.nn.Linear(2, 2)], ids=["iterable", "not"])
def test_a_model_in_place_of_its_parameters_is_refused_and_a_parameter_list_is_not(build):
    given = build()
    message = f"^Aida takes parameters, not the model itself, a {type(given).__name__}: give model.parameters"
    with pytest.raises(TypeError, match=message):
        aida.Aida(given)
    assert len(aida.Aida(torch.nn.ParameterList(parameters())).param_groups[0]["params"]) == 3


@pytest.mark.parametrize("cls", MEMBERS)
def test_a_w_is_to_a_member_what_adamw_is_to_adam(cls):
    """Decoupled decay of torch's own default, and any other when given; coupled would contradict the name."""
    name, torchs = cls.__name__ + "W", torch.optim.AdamW(parameters()).defaults
    optimizer = aida.create_optimizer(name, model())
    plain = cls(model().parameters(), weight_decay=0.01, decoupled_weight_decay=True)
    assert type(optimizer) is cls
    assert optimizer.defaults == plain.defaults
    same = ("weight_decay", "decoupled_weight_decay", "lr", "betas")
    assert [optimizer.defaults[k] for k in same] == [
        torchs.get(k, True) for k in same
    ]  # older ones do not name their kind
    assert aida.create_optimizer(name.lower(), model(), weight_decay=0.5).defaults["weight_decay"] == 0.5
    with pytest.raises(ValueError, match=f"for coupled decay ask for '{cls.__name__}'"):
        aida.create_optimizer(name, model(), decoupled_weight_decay=False)
    assert not aida.create_optimizer(name[:-1], model()).defaults["decoupled_weight_decay"]


def test_the_swap_shrinks_weights_as_adamw_does():
    """With gradients of zero a step is the decay alone, the same as AdamW's; coupled decay is another."""
    ours, theirs, coupled = (parameters() for _ in range(3))
    for o in (
        aida.create_optimizer("aidaw", ours, lr=0.1, weight_decay=0.5),
        torch.optim.AdamW(theirs, lr=0.1, weight_decay=0.5),
        aida.create_optimizer("aida", coupled, lr=0.1, weight_decay=0.5),
    ):
        train(o, range(3), scale=0.0)
    for p, q, r in zip(ours, theirs, coupled, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=0)
        assert not torch.allclose(r, q, rtol=1e-3)


def decays(optimizer):
    return {n: g["weight_decay"] for g in optimizer.param_groups for n in g["param_names"]}


@pytest.mark.parametrize("source", [lambda m: m, lambda m: m.named_parameters()], ids=["model", "named"])
@pytest.mark.parametrize("name", ["aida", "adamw"])
def test_no_decay_spares_the_parameters_it_names(source, name):
    optimizer = aida.create_optimizer(name, source(model()), weight_decay=0.5, no_decay=("*.bias", "1.*"))
    assert decays(optimizer) == {
        "0.weight": 0.5, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0, "2.weight": 0.5, "2.bias": 0.0
    }  # fmt: skip
    train(optimizer, [0])


def test_one_pattern_may_be_a_string():
    assert decays(aida.create_optimizer("aida", model(), weight_decay=1.0, no_decay="*.bias"))["0.bias"] == 0


def test_all_or_no_parameters_may_be_spared():
    every = aida.create_optimizer("aida", model(), weight_decay=0.5, no_decay="*")
    assert set(decays(every).values()) == {0.0}
    with pytest.warns(UserWarning, match=r"no_decay=\('\*.bais',\) matches no parameter.*'0.weight'"):
        none = aida.create_optimizer("aida", model(), weight_decay=0.5, no_decay="*.bais")
    assert set(decays(none).values()) == {0.5}


def test_no_parameters_are_refused_as_torch_does():
    with pytest.raises(ValueError, match="empty parameter list"):
        aida.create_optimizer("aida", [], no_decay="norms_and_biases")


def test_no_decay_needs_names():
    with pytest.raises(ValueError, match="needs parameter names: give the model itself"):
        aida.create_optimizer("aida", model().parameters(), no_decay="*.bias")


class GPT(torch.nn.Module):
    """Names and shapes of GPT-2: ln_1.weight has no "norm" in it; the head is tied to the embedding."""

    def __init__(self):
        super().__init__()
        block = torch.nn.ModuleDict(
            {
                "ln_1": torch.nn.LayerNorm(4),
                "attn": torch.nn.ModuleDict(
                    {"c_attn": torch.nn.Linear(4, 12), "c_proj": torch.nn.Linear(4, 4)}
                ),
                "ln_2": torch.nn.LayerNorm(4),
                "mlp": torch.nn.ModuleDict(
                    {"c_fc": torch.nn.Linear(4, 16), "c_proj": torch.nn.Linear(16, 4)}
                ),
            }
        )
        self.transformer = torch.nn.ModuleDict(
            {
                "wte": torch.nn.Embedding(10, 4),
                "wpe": torch.nn.Embedding(8, 4),
                "h": torch.nn.ModuleList([block]),
                "ln_f": torch.nn.LayerNorm(4),
            }
        )
        self.lm_head = torch.nn.Linear(4, 10, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight
        self.bias = torch.nn.Parameter(torch.zeros(10))
        self.scale = torch.nn.Parameter(torch.tensor(1.0))


class ResNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 4, 3, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(4)
        down = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 1, bias=False), torch.nn.BatchNorm2d(8))
        self.layer1 = torch.nn.Sequential(
            torch.nn.ModuleDict({"conv1": torch.nn.Conv2d(4, 8, 3), "downsample": down})
        )
        self.fc = torch.nn.Linear(8, 10)


SPARED = {
    "gpt": (GPT, {"bias", "scale"}, ("ln_", ".bias"), {"transformer.wte.weight", "transformer.wpe.weight"}),
    "resnet": (ResNet, {"bn1.weight", "layer1.0.downsample.1.weight"}, (".bias",), set()),
}


@pytest.mark.parametrize(("build", "whole", "parts", "embeddings"), SPARED.values(), ids=SPARED)
@pytest.mark.parametrize("name", ["aidaw", "adamw"])
def test_norms_and_biases_are_spared_by_their_dimensions(build, whole, parts, embeddings, name):
    net = build()
    names = {n for n, _ in net.named_parameters()}
    spared = whole | {n for n in names if any(part in n for part in parts)}
    assert len(spared) < len(names - embeddings)
    sources = {"model": net, "named": net.named_parameters(), "plain": net.parameters()}
    for source in sources.values():
        optimizer = aida.create_optimizer(name, source, no_decay="norms_and_biases")
        found = {p: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
        assert {n for n, p in net.named_parameters() if found[p] == 0} == spared
        assert {*found.values()} == {0.0, 0.01}
    optimizer = aida.create_optimizer(name, net, no_decay="norms_biases_and_embeddings")
    assert {n for n, d in decays(optimizer).items() if d == 0} == spared | embeddings
    optimizer = aida.create_optimizer(name, net, no_decay=("norms_and_biases", "*wte*", "fc.*"))
    more = {n for n in names if "wte" in n or n.startswith("fc.")}
    assert {n for n, d in decays(optimizer).items() if d == 0} == spared | more
    train(optimizer, [0])


def test_what_no_decay_cannot_know_is_said():
    net = GPT()
    with pytest.raises(ValueError, match="has to know which layers are embeddings: give the model itself"):
        aida.create_optimizer("aidaw", net.named_parameters(), no_decay="norms_biases_and_embeddings")
    with pytest.raises(ValueError, match="makes the groups itself: give the model"):
        aida.create_optimizer("aidaw", [{"params": net.parameters()}], no_decay="norms_and_biases")
    with pytest.raises(ValueError, match="needs parameter names"):
        aida.create_optimizer("aidaw", net.parameters(), no_decay=("norms_and_biases", "*wte*"))
    with pytest.raises(ValueError, match="lazy module's parameter has no dimensions yet"):
        aida.create_optimizer("aidaw", torch.nn.LazyLinear(3), no_decay="norms_and_biases")
    (p := torch.nn.Parameter(torch.ones(12)))._fsdp_flattened = True
    with pytest.raises(ValueError, match="FullyShardedDataParallel has flattened the parameters"):
        aida.create_optimizer("aidaw", [p], no_decay="norms_and_biases")
    with pytest.warns(UserWarning, match="matches no parameter.* and 'norms_and_biases' is what has fewer"):
        aida.create_optimizer("aidaw", net, no_decay="norm_and_biases")


def test_frozen_parameters_of_a_model_are_left_out():
    net = model()
    net[0].requires_grad_(False)
    assert set(decays(aida.create_optimizer("aida", net))) == {"1.weight", "1.bias", "2.weight", "2.bias"}
    with pytest.raises(ValueError, match="no trainable parameter: every requires_grad is False"):
        aida.create_optimizer("aida", net.requires_grad_(False))


@pytest.mark.parametrize("cls", MEMBERS)
@pytest.mark.parametrize("preset", aida.presets)
def test_a_preset_builds_every_member(cls, preset):
    optimizer = cls(parameters(), **aida.presets[preset])
    train(optimizer, range(2))
    assert optimizer.param_groups[0].items() >= aida.presets[preset].items()


@pytest.mark.parametrize("preset", aida.presets)
def test_a_preset_with_a_setting_of_ones_own(preset):
    own = aida.presets(preset, lr=0.5, K=1)
    assert own == {**aida.presets[preset], "lr": 0.5, "K": 1}
    assert aida.presets[preset]["lr"] != 0.5
    assert aida.Aida(parameters(), **own).defaults.items() >= own.items()


@pytest.mark.parametrize("take", [lambda name: aida.presets[name], aida.presets])
def test_an_unknown_preset_gets_what_there_is(take):
    with pytest.raises(KeyError, match=r"no preset 'nlp': there are 'cifar', 'transformer', .*'imagenet'"):
        take("nlp")
    with pytest.raises(KeyError, match=r"no preset 'cifar10': did you mean 'cifar'\? There are"):
        take("cifar10")


def test_the_papers_settings():
    assert aida.presets["cifar"].items() >= {"weight_decay": 5e-4, "eps": 1e-8}.items()
    assert aida.presets["transformer"].items() >= {"betas": (0.9, 0.98), "eps": 1e-16}.items()


@pytest.mark.parametrize("cls", MEMBERS)
def test_a_signature_shows_every_argument_and_its_default(cls):
    shown = {n: p.default for n, p in inspect.signature(cls).parameters.items()}
    assert shown.items() >= cls(parameters()).defaults.items()
    assert ("K" in shown) == ("K" in cls.own)


PROGRAM = """
import sys
import torch
before = set(sys.modules)
import {module}
own = {{"aida", *sys.stdlib_module_names}}
print(*(name for name in set(sys.modules) - before if name.split(".")[0] not in own))
"""


def loaded_by(module):
    """What importing it loads that torch has not: other packages, and parts of torch that it leaves out."""
    command = [sys.executable, "-c", PROGRAM.format(module=module)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.processes
def test_importing_loads_nothing_beside_torch():
    assert loaded_by("aida") == []
    assert "torch.distributed.tensor" in loaded_by("torch.distributed.tensor")  # negative control
