"""An n-gram model with interpolated Kneser-Ney smoothing: what a neural language model has to beat."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Counts(NamedTuple):
    """Of one order: sorted codes of the n-grams and of their histories, with what is needed of each."""

    grams: Tensor
    of_gram: Tensor
    histories: Tensor
    of_history: Tensor
    followers: Tensor
    discount: float


class KneserNey:
    """p(w | h) of the last `order` - 1 symbols h, learnt from the symbols `text` (int64 in [0, symbols)).

    p_n(w|h) = (max(c(hw) - D, 0) + D N(h) p_{n-1}(w|h')) / c(h), h' = h without its first symbol, N(h) the
    number of different symbols seen after h; where h was never seen p_n = p_{n-1}; p_0 = 1 / symbols. c are
    counts in the highest order and numbers of different symbols seen before the n-gram in all others;
    D = n1 / (n1 + 2 n2) in each order, n1 and n2 the numbers of n-grams of count 1 and 2, and 1/2 where one
    of them is zero (Ney, Essen and Kneser 1994; Chen and Goodman 1999).

    Raises ValueError if symbols ** order exceeds 2^63.
    """

    def __init__(self, text: Tensor, order: int, symbols: int) -> None:
        if symbols**order >= 2**63:
            raise ValueError(f"{order}-grams of {symbols} symbols have no number below 2^63: lower the order")
        self.order, self.symbols = order, symbols
        grams, count = codes(text, order, symbols).unique(return_counts=True)
        self.orders: list[Counts] = []
        for n in range(order, 0, -1):
            self.orders.insert(0, self.count(grams, count))
            grams, count = (grams % symbols ** (n - 1)).unique(return_counts=True)

    def count(self, grams: Tensor, count: Tensor) -> Counts:
        ones, twos = int((count == 1).sum()), int((count == 2).sum())
        histories, place = (grams // self.symbols).unique_consecutive(return_inverse=True)
        total = torch.zeros_like(histories).index_add_(0, place, count)
        discount = ones / (ones + 2 * twos) if ones and twos else 0.5
        return Counts(grams, count, histories, total, place.bincount(), discount)

    def loss(self, text: Tensor) -> float:
        """Mean of -ln p, in nats, over the symbols of `text` that have a whole history."""
        p = torch.full((len(text) - self.order + 1,), 1 / self.symbols, dtype=torch.float64)
        for n, counts in enumerate(self.orders, 1):
            grams = codes(text[self.order - n :], n, self.symbols)
            of_gram = looked_up(grams, counts.grams, counts.of_gram)
            total = looked_up(grams // self.symbols, counts.histories, counts.of_history)
            followers = looked_up(grams // self.symbols, counts.histories, counts.followers)
            mixed = ((of_gram - counts.discount).clamp(min=0) + counts.discount * followers * p) / total
            p = torch.where(total > 0, mixed, p)
        return -p.log().mean().item()


def codes(text: Tensor, n: int, symbols: int) -> Tensor:
    """The number of each n-gram of consecutive symbols: its digits in base `symbols`."""
    powers = symbols ** torch.arange(n - 1, -1, -1)
    return (text.unfold(0, n, 1) * powers).sum(1)


def looked_up(wanted: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The values of `wanted` among the sorted `keys`, 0 where there is none, as float64."""
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[place] == wanted, values[place], 0).double()
