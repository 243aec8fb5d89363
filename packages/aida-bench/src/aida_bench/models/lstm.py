"""The LSTM language model of Merity et al. (arXiv 1708.02182), known as AWD-LSTM."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, embedding, linear

State = list[tuple[Tensor, Tensor]]
"""Hidden and cell state [1, B, H] of each layer."""


class Output(NamedTuple):
    """`logits` [B, T, V]; the last layer's `hidden` [T, B, E], and the same after dropout; the next state."""

    logits: Tensor
    hidden: Tensor
    dropped: Tensor
    state: State


class Dropouts(NamedTuple):
    """Fractions dropped of: whole words; embeddings; between layers; the last layer; recurrent weights."""

    words: float = 0.0
    input: float = 0.0
    between: float = 0.0
    output: float = 0.0
    weights: float = 0.0


class WeightDropLSTM(nn.Module):
    """One LSTM layer [T, B, in] -> [T, B, out]; each forward pass drops other recurrent weights."""

    def __init__(self, size_in: int, size_out: int, weight_drop: float) -> None:
        super().__init__()
        self.size_out, self.weight_drop = size_out, weight_drop
        self.weight_ih = nn.Parameter(torch.empty(4 * size_out, size_in))
        self.weight_hh = nn.Parameter(torch.empty(4 * size_out, size_out))
        self.bias_ih = nn.Parameter(torch.empty(4 * size_out))
        self.bias_hh = nn.Parameter(torch.empty(4 * size_out))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(size_out**-0.5), size_out**-0.5)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if state is None:
            zeros = x.new_zeros(1, x.shape[1], self.size_out)
            state = (zeros, zeros)
        # nn.LSTM keeps its own list of weights, which a dropped one cannot enter: its kernel is called as is.
        recurrent = dropout(self.weight_hh, self.weight_drop, self.training)
        weights = [self.weight_ih, recurrent, self.bias_ih, self.bias_hh]
        y, h, c = torch.lstm(x, state, weights, True, 1, 0.0, self.training, False, False)
        return y, (h, c)


class LanguageModel(nn.Module):
    """Embedding, `layers` LSTMs of `hidden` units (the last of `embedding`), the embedding's transpose."""

    def __init__(
        self, vocabulary: int, *, layers: int, embedding: int, hidden: int, dropouts: Dropouts
    ) -> None:
        super().__init__()
        self.dropouts = dropouts
        self.embedding = nn.Parameter(torch.empty(vocabulary, embedding).uniform_(-0.1, 0.1))
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        sizes = [embedding, *[hidden] * (layers - 1), embedding]
        self.layers = nn.ModuleList(
            WeightDropLSTM(size_in, size_out, dropouts.weights) for size_in, size_out in pairwise(sizes)
        )

    def forward(self, tokens: Tensor, state: State | None = None) -> Output:
        """Logits of the next word after each of `tokens` [B, T]."""
        drops, following = self.dropouts, []
        kept = dropout(self.embedding.new_ones(len(self.embedding), 1), drops.words, self.training)
        x = self.locked(embedding(tokens.t(), self.embedding * kept), drops.input)
        hidden = x
        for i, layer in enumerate(self.layers):
            hidden, after = layer(x, state[i] if state else None)
            following.append(after)
            x = self.locked(hidden, drops.output if i == len(self.layers) - 1 else drops.between)
        return Output(linear(x.transpose(0, 1), self.embedding, self.bias), hidden, x, following)

    def locked(self, x: Tensor, fraction: float) -> Tensor:
        """Dropout with one mask [1, B, ·] for all time steps."""
        return x * dropout(x.new_ones(1, *x.shape[1:]), fraction, self.training)


def detached(state: State) -> State:
    return [(h.detach(), c.detach()) for h, c in state]
