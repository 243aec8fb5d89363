"""The Transformer of Vaswani et al. (arXiv 1706.03762): post-norm, all embeddings shared.

As in the code that the comparison comes from, attention has no biases, the embeddings are normalised, and it
is the logits that are scaled by dim^-1/2, not the embeddings.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention


class Attention(nn.Module):
    """norm(x + attention) of x [B, T, D] over memory [B, S, D]; `allowed` [B, 1, 1, S]: not padding."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key, self.value, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.drop, self.norm = nn.Dropout(dropout), nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor, memory: Tensor, allowed: Tensor | None) -> Tensor:
        """Without `allowed`, each word sees itself and those before it."""
        query, key, value = (
            project(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project, states in ((self.query, x), (self.key, memory), (self.value, memory))
        )
        mixed = scaled_dot_product_attention(
            query, key, value, allowed, self.dropout if self.training else 0.0, is_causal=allowed is None
        )
        return self.norm(x + self.drop(self.out(mixed.transpose(1, 2).flatten(2))))


class FeedForward(nn.Module):
    def __init__(self, dim: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(dim, inner), nn.ReLU(), nn.Linear(inner, dim), nn.Dropout(dropout)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.layers(x))


class Layer(nn.Module):
    """Self-attention, in a decoder attention over the source, feed-forward."""

    def __init__(self, dim: int, heads: int, inner: int, dropout: float, *, decoder: bool) -> None:
        super().__init__()
        self.own = Attention(dim, heads, dropout)
        self.source = Attention(dim, heads, dropout) if decoder else None
        self.feed_forward = FeedForward(dim, inner, dropout)

    def forward(
        self, x: Tensor, allowed: Tensor | None, memory: Tensor | None = None, seen: Tensor | None = None
    ) -> Tensor:
        x = self.own(x, x, allowed)
        if self.source is not None:
            x = self.source(x, memory, seen)
        return self.feed_forward(x)


class Transformer(nn.Module):
    """`layers` in the encoder and as many in the decoder. With 6, dim 512 and inner 2048 it has 44,103,680 +
    512 * vocabulary parameters. Matrices are drawn by Xavier's uniform rule; `padding` is a word's number."""

    def __init__(
        self, vocabulary: int, padding: int, *, layers: int, dim: int, inner: int, heads: int, dropout: float,
        longest: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.padding, self.dim = padding, dim
        self.embedding = nn.Embedding(vocabulary, dim, padding_idx=padding)
        self.positions: Tensor
        self.register_buffer("positions", sinusoids(longest, dim), persistent=False)
        self.drop = nn.Dropout(dropout)
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.encoder, self.decoder = (
            nn.ModuleList(Layer(dim, heads, inner, dropout, decoder=decoder) for _ in range(layers))
            for decoder in (False, True)
        )
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(self, source: Tensor, target: Tensor | None = None, memory: Tensor | None = None) -> Tensor:
        """Without a target, the memory [B, S, D] of `source` [B, S]; else the logits [B, T, V] of the words
        after each of `target` [B, T]; with a memory (of source) only of the word after the last, [B, V]."""
        seen = (source != self.padding)[:, None, None]
        encoded = self.encode(source, seen) if memory is None else memory
        if target is None:
            return encoded
        x = self.decoder_norm(self.embed(target))
        for layer in self.decoder:
            x = layer(x, None, encoded, seen)
        return linear(x if memory is None else x[:, -1], self.embedding.weight) * self.dim**-0.5

    def encode(self, source: Tensor, seen: Tensor) -> Tensor:
        x = self.encoder_norm(self.embed(source))
        for layer in self.encoder:
            x = layer(x, seen)
        return x

    def embed(self, words: Tensor) -> Tensor:
        return self.drop(self.embedding(words) + self.positions[: words.shape[1]])


def sinusoids(length: int, dim: int) -> Tensor:
    """[length, dim]: columns 2i and 2i+1 are the sine and cosine of position / 10000^(2i/dim)."""
    angles = torch.arange(length)[:, None] / 10000 ** (torch.arange(0, dim, 2) / dim)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)
