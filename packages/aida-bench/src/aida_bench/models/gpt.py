"""A decoder-only Transformer of GPT-2's form (Radford et al. 2019): pre-norm, tied embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention

STD = 0.02


class Block(nn.Module):
    """x + attention(norm(x)) over the positions up to each, then x + mlp(norm(x)), for x [B, T, D]."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention_norm, self.mlp_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query_key_value, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.drop, self.gelu = nn.Dropout(dropout), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.out(self.attend(self.query_key_value(self.attention_norm(x)))))
        return x + self.drop(self.down(self.gelu(self.up(self.mlp_norm(x)))))

    def attend(self, projected: Tensor) -> Tensor:
        query, key, value = projected.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        mixed = scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=True)
        return mixed.transpose(1, 2).flatten(2)


class Gpt(nn.Module):
    """Tokens [B, T], T at most `context`, to logits [B, T, vocabulary] of the token after each.

    12 `layers` dim² + (13 layers + 2) dim + (vocabulary + context) dim parameters. Weights are drawn from
    N(0, 0.02), those that end a residual branch from N(0, 0.02 / sqrt(2 layers)); biases are zero.
    """

    def __init__(
        self, vocabulary: int, *, context: int, layers: int, dim: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, dim), nn.Embedding(context, dim)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        for name, parameter in self.named_parameters():
            ends_branch = name.endswith(("out.weight", "down.weight"))
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=STD / (2 * layers) ** 0.5 if ends_branch else STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.drop(self.tokens(tokens) + self.positions(places))
        for block in self.blocks:
            x = block(x)
        return linear(self.norm(x), self.tokens.weight)
