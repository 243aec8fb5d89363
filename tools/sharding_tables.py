"""Bytes and messages that an optimizer adds to one step of a sharded model; prints docs/guide/sharding.md's.

    python tools/sharding_tables.py

Counted from the published algorithms under the assumptions of docs/guide/sharding.md; nothing here is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log2

RANKS = (8, 512, 16_384)


@dataclass(frozen=True)
class Model:
    """A decoder of the Llama 2 form: q, k, v, o, three MLP matrices and two norms a block."""

    name: str
    blocks: int
    width: int
    keys: int  # width of k and of v
    hidden: int
    vocabulary: int = 32_000

    @property
    def block_matrices(self) -> list[int]:
        w, k, h = self.width, self.keys, self.hidden
        return [w * w, w * k, w * k, w * w, w * h, w * h, w * h]

    @property
    def layers(self) -> int:
        return self.blocks * (len(self.block_matrices) + 2) + 3  # embedding, last norm, head

    @property
    def matrices(self) -> int:
        """Elements of the blocks' matrices."""
        return self.blocks * sum(self.block_matrices)

    @property
    def parameters(self) -> int:
        return self.matrices + (2 * self.blocks + 1) * self.width + 2 * self.vocabulary * self.width


MODELS = (Model("7B", 32, 4096, 4096, 11_008), Model("70B", 80, 8192, 1024, 28_672))


def all_reduce(size: float, n: int) -> float:
    return 2 * size * (n - 1) / n


def muon(model: Model, n: int) -> float:
    """The busiest rank: its shards go to the matrices' owners, and the matrices it owns go back."""
    sizes = sorted(model.block_matrices * model.blocks, reverse=True)
    owned = sum(sizes[::n])  # dealt out in order of size
    return 2 * (model.matrices / n + owned) * (n - 1) / n


WAYS: dict[str, tuple[str, Callable[[Model, int], float]]] = {
    "AdamW; any member under DDP": ("0", lambda model, n: 0.0),
    'Aida; "pre"; 4·L numbers': ("1", lambda model, n: all_reduce(4 * 8 * model.layers, n)),
    'LAdam, LAdaBelief "post"; 2·L numbers': ("1", lambda model, n: all_reduce(2 * 8 * model.layers, n)),
    'LAida "post"; 4·L and 2·L numbers': ("2", lambda model, n: all_reduce(6 * 8 * model.layers, n)),
    "LAMB; 2·L numbers": ("1", lambda model, n: all_reduce(2 * 8 * model.layers, n)),
    "Muon, matrices to owners and back": ("2", muon),
    "Shampoo, all_gather of updates": ("1", lambda model, n: 4 * model.parameters * (n - 1) / n),
}


def amount(size: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.3g} {unit}"
    return f"{size:.0f} B"


def main() -> None:
    for model in MODELS:
        print(f"\n**{model.name}**: {model.parameters / 1e9:.2f}e9 parameters in L = {model.layers} layers\n")
        print("| one step adds | messages | " + " | ".join(f"{n:,} ranks" for n in RANKS) + " |")
        print("|---|---|" + "---|" * len(RANKS))
        for name, (messages, sent) in WAYS.items():
            print(f"| {name} | {messages} | " + " | ".join(amount(sent(model, n)) for n in RANKS) + " |")
    print("\nHops of one small all_reduce:", ", ".join(f"{2 * ceil(log2(n))} on {n:,} ranks" for n in RANKS))


if __name__ == "__main__":
    main()
