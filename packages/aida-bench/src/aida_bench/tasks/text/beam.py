"""Beam search over a batch of sentences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def beam_search(
    logits: Callable[[Tensor], Tensor],
    sentences: int,
    beams: int,
    *,
    begin: int,
    end: int,
    padding: int,
    longest: int,
    device: Any,
    length_power: float = 1.0,
) -> list[list[int]]:
    """Each sentence's best words by log-probability / length^length_power, without begin and end.

    `logits` maps beginnings [sentences * beams, t], beams of a sentence side by side, to logits of the next
    word [sentences * beams, V]. A beam that has ended is padded and keeps its score; the search stops when
    all beams have ended, or at `longest` words.
    """
    words = torch.full((sentences, beams, 1), begin, device=device)
    # All beams begin alike, so only the first may be continued at first.
    scores = torch.full((sentences, beams), -torch.inf, device=device)
    scores[:, 0] = 0.0
    lengths = torch.zeros(sentences, beams, device=device)
    ended = torch.zeros(sentences, beams, dtype=torch.bool, device=device)
    while words.shape[2] < longest and not ended.all():
        gains = logits(words.flatten(0, 1)).float().log_softmax(-1).unflatten(0, (sentences, beams))
        gains[..., padding] = -torch.inf
        gains[ended] = -torch.inf
        gains[..., padding].masked_fill_(ended, 0.0)
        scores, best = (scores[..., None] + gains).flatten(1).topk(beams)
        beam, word = best // gains.shape[-1], best % gains.shape[-1]
        words = torch.cat([words.gather(1, beam[..., None].expand_as(words)), word[..., None]], 2)
        ended, lengths = ended.gather(1, beam), lengths.gather(1, beam)
        lengths += ~ended
        ended |= word == end
    chosen = (scores / lengths.clamp(min=1) ** length_power).argmax(1)
    found = words[torch.arange(sentences, device=device), chosen, 1:].tolist()
    return [[word for word in sentence if word not in (end, padding)] for sentence in found]
