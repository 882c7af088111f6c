"""Simulated corrections: where a user would click or draw next, and what the network is then told.

The next stroke lies in a large error (its middle, a place near it, or along it), as in training of promptable networks since
RITM (Sofiiuk et al. 2021). Users are also lazy, misplaced and redundant: some strokes lie anywhere in the error, some where
nothing is wrong. A stroke never lies on the wrong side of the truth.
"""

from __future__ import annotations

import math
from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .drawing import chosen, uniform

#: How often a stroke is placed anywhere in the error, and where nothing is wrong.
_LAZY, _REDUNDANT = 0.2, 0.06


def next_stroke(predicted: Tensor, truth: Tensor, exact: bool = False) -> Tuple[Tensor, Tensor]:
    """One stroke for every mask.

    Args:
        predicted, truth: boolean ``B x H x W``.
        exact: always the middle of the largest error, as a click; for evaluation.

    Returns:
        Maps of what is to be added and removed, 0 or 1, ``B x H x W``; both empty where nothing is wrong.
    """
    count, side = len(truth), truth.shape[-1]
    wrong = predicted ^ truth
    depth = _depth(wrong)
    score = depth
    like = depth
    if not exact:
        score = depth * torch.exp(torch.randn_like(depth) * 0.15)
        score = torch.where(chosen(_LAZY, count, like).view(-1, 1, 1), torch.rand_like(depth) * wrong, score)
        right = torch.where(chosen(0.5, count, like).view(-1, 1, 1), predicted & truth, ~predicted & ~truth)
        score = torch.where(chosen(_REDUNDANT, count, like).view(-1, 1, 1), torch.rand_like(depth) * right, score)
    place = score.flatten(1).argmax(1)
    some = score.flatten(1).amax(1) > 0
    y, x = (place // side).float(), (place % side).float()
    adds = truth.flatten(1).gather(1, place[:, None])[:, 0]
    axis = torch.arange(side, device=truth.device, dtype=torch.float32)
    rows, columns = axis[None, :, None], axis[None, None, :]
    radius = torch.full((count,), 1.5, device=truth.device) if exact else uniform(1.0, 3.2, like, count)
    length = torch.zeros(count, device=truth.device)
    angle = length
    if not exact:
        length = uniform(0, 0.5, like, count) * side * chosen(0.4, count, like) * 0.4
        angle = uniform(0, math.pi, like, count)
    # distance from a piece of a line through the place
    dx, dy = columns - x.view(-1, 1, 1), rows - y.view(-1, 1, 1)
    along = dx * torch.cos(angle).view(-1, 1, 1) + dy * torch.sin(angle).view(-1, 1, 1)
    held = along.clamp(-1e9, 1e9).minimum(length.view(-1, 1, 1)).maximum(-length.view(-1, 1, 1))
    away = ((dx - held * torch.cos(angle).view(-1, 1, 1)) ** 2 + (dy - held * torch.sin(angle).view(-1, 1, 1)) ** 2).sqrt()
    stroke = (away <= radius.view(-1, 1, 1)) & some.view(-1, 1, 1)
    stroke = stroke & (truth == adds.view(-1, 1, 1))
    return (stroke & adds.view(-1, 1, 1)).float(), (stroke & ~adds.view(-1, 1, 1)).float()


def corrected(hints: Tensor, predicted: Tensor, strokes: Tuple[Tensor, Tensor]) -> Tensor:
    """The hints of the next round: the present mask, and all strokes so far."""
    hints = hints.clone()
    hints[:, 1] = predicted.float() * 2 - 1
    hints[:, 2] = torch.maximum(hints[:, 2], strokes[0])
    hints[:, 3] = torch.maximum(hints[:, 3], strokes[1])
    return hints


def _depth(wrong: Tensor) -> Tensor:
    """About how deep a pixel lies in its error, and a little of how large the error around it is; 0 outside."""
    inside = wrong.float()[:, None]
    depth = inside.clone()
    eaten = inside
    for _ in range(6):
        eaten = -F.max_pool2d(-eaten, 3, 1, 1)
        depth = depth + eaten
    around = F.avg_pool2d(inside, 15, 1, 7) * 3
    return ((depth + around) * inside)[:, 0]
