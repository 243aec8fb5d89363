"""Optimizers that a configuration names, by Hydra."""

import io

import pytest
import torch

import aida
from helpers.members import parameters
from helpers.peers import needed


def test_hydra_instantiates_and_the_checkpoint_is_plain():
    hydra = needed("hydra.utils")
    from omegaconf import OmegaConf

    config = OmegaConf.create({"_target_": "aida.Aida", "lr": 0.003, "betas": [0.8, 0.9], "K": 1})
    optimizer = hydra.instantiate(config, parameters())
    assert type(optimizer) is aida.Aida
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    (group,) = torch.load(file, weights_only=True)["param_groups"]
    assert (group["lr"], group["betas"], group["K"]) == (0.003, (0.8, 0.9), 1)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"betas": "0.9,0.99"}, "Invalid betas: '0.9,0.99'; it must be two numbers in [0, 1)"),
        ({"betas": [0.9]}, "Invalid betas: [0.9]; it must be two numbers in [0, 1)"),
        ({"lr": "1e-3"}, "Invalid learning rate: '1e-3'; it must be a finite number of 0 or more"),
        ({"epsilon": 1e-8}, "Aida has no argument 'epsilon': did you mean 'eps'?"),
    ],
)
def test_a_wrong_configuration_is_told_in_one_sentence(values, said):
    hydra = needed("hydra.utils")
    from omegaconf import OmegaConf

    with pytest.raises(Exception, match="Error in call to target") as caught:
        hydra.instantiate(OmegaConf.create({"_target_": "aida.Aida", **values}), parameters())
    assert said in str(caught.value)
