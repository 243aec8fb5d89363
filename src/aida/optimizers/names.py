"""Names of arguments: what a misspelt one, or one from another library, most likely meant."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable

from .foreign import MEMBERS_OWN

# Keys that torch, schedulers and trainers keep in a group beside the optimizer's own.
KEPT = (
    "params",
    "param_names",
    "name",
    "initial_lr",
    "initial_K",
    "max_lr",
    "min_lr",
    "max_momentum",
    "base_momentum",
    "swa_lr",
    "lr_scale",
    "lr_mult",
)

# What other libraries call an argument of ours.
ALIASES = {
    alias: ours
    for ours, aliases in {
        "lr": "learning_rate learning_rates lrate step_size stepsize eta alpha",
        "betas": "b1 b2 beta beta1 beta2 beta_1 beta_2 adam_beta1 adam_beta2 momentum adam_betas",
        "eps": "epsilon eps_root adam_epsilon adam_eps eps1 eps2",
        "weight_decay": "wd weight_decay_rate decay l2 l2_regularization lambda_ regularization",
        "decoupled_weight_decay": "weight_decouple decoupled_decay decouple decoupled decouple_weight_decay "
        "decoupled_wd adamw adamw_mode adam_w_mode",
        "K": "k n_projections num_projections projections",
        "xi": "xi_ projection_eps",
        "layerwise": "layer_wise per_layer",
        "state_dtype": "mu_dtype nu_dtype moment_dtype moments_dtype states_dtype exp_avg_dtype "
        "exp_avg_sq_dtype optim_bits",
        "stochastic_rounding": "bf16_stochastic_round stochastic_round use_stochastic_rounding",
        "rectify": "rectified rectification use_rectification",
        "maximize": "maximise ascent",
        "foreach": "for_each multi_tensor use_foreach",
        "fused": "use_fused fuse",
    }.items()
    for alias in aliases.split()
}

# What other optimizers have and this family has not.
ABSENT = (
    "amsgrad",
    "ams_bound",
    "nesterov",
    "fixed_decay",
    "degenerated_to_sgd",
    "print_change_log",
    "n_sma_threshold",
    "adam_debias",
    "dampening",
    "clip_threshold",
    "cautious",
    "caution",
)


def check_arguments(who: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise TypeError at the first argument that is not known, with the name that was most likely meant."""
    known = sorted(known)
    for name in given:
        if name not in known:
            raise TypeError(f"{who} has no argument {name!r}: {_hint(name, known)}")


def warn_of_keys(where: str, keys: Iterable[str], known: Iterable[str], of_family: Iterable[str]) -> None:
    """Warn at keys of a group that are most likely misspelt; a user's own are kept, as torch keeps them.

    of_family: arguments of other members, which this one leaves out: its step and its checkpoints would read
    them as its own.
    """
    known = sorted(known)
    for key in keys:
        if key in known or key in KEPT or not isinstance(key, str):
            continue
        if key in of_family:
            told = f"leaves out the key {key!r}, which only other members of the family have"
        elif near := _meant(key, known) or _misspelt(key, known):
            told = f"keeps the key {key!r} and does not use it: did you mean {near!r}?"
        else:
            continue
        warnings.warn(f"{where} {told}", stacklevel=5)


def _hint(name: str, known: list[str]) -> str:
    if meant := _meant(name, known):
        return f"did you mean {meant!r}?"
    if name in MEMBERS_OWN:
        return "only other members of the family have it; leave it out"
    if name in ABSENT:
        return "nothing in this family does what it does; leave it out"
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"


def _meant(name: str, known: list[str]) -> str | None:
    """The argument that another library has under this name."""
    ours = ALIASES.get(name.lower())
    return ours if ours in known else None


def _misspelt(key: str, known: list[str]) -> str | None:
    """The nearest known name within two edits, or one for names of three letters or less."""
    near = min(known, key=lambda name: _edits(key.lower(), name.lower()))
    return near if _edits(key.lower(), near.lower()) <= min(2, len(near) // 2) else None


def _edits(a: str, b: str) -> int:
    """How many letters inserted, left out, replaced or swapped with their neighbours make b of a."""
    before: list[int] = []
    row = [*range(len(b) + 1)]
    for i, x in enumerate(a, 1):
        above, before = before, row
        row = [i]
        for j, y in enumerate(b, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y)))
            if i > 1 and j > 1 and (a[i - 2], x) == (y, b[j - 2]):
                row[j] = min(row[j], above[j - 2] + 1)
    return row[-1]
