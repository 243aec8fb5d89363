"""Which seeds a run may have."""

from __future__ import annotations

from collections.abc import Iterable

from aida_bench.errors import UserError

LAST_SEED = 2**32 - 1


def check_seeds(seeds: Iterable[int]) -> None:
    if (last := max(seeds)) > LAST_SEED:
        raise UserError(f"seed {last} is above {LAST_SEED}, numpy's last: choose a smaller one.")
