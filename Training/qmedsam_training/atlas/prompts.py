"""What a walk through a volume, or a user, says to the network about a drawn frame: box, kind, neighbour's mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import torch
import torch.nn.functional as F
from qmedsam.network import HINTS, KINDS
from qmedsam.strategies.slicewise import MARGIN, ROOM
from torch import Tensor

from .drawing import Drawn, chosen, extent, grown, uniform

#: Of which kinds of boxes the walk knows a neighbour's mask, as shares; tight ones of volumes are a second look's.
_KNOWN = (0.12, 0.65, 0.9)
_KNOWN_AGAIN = 0.5


@dataclass
class Prompts:
    """``B`` prompts: boxes ``B x 4`` in network pixels, hints ``B x 4 x S/2 x S/2``, kinds ``B x 3``, truth ``B x S/2 x S/2``."""

    boxes: Tensor
    hints: Tensor
    kinds: Tensor
    truth: Tensor


def prompts_of(drawn: Drawn, neighbours: bool = True, guess: Optional[Tensor] = None) -> Prompts:
    """Prompts as they are asked.

    Args:
        drawn: what they are about.
        neighbours: also with what a neighbouring slice showed: its true mask, spoiled as a walk spoils it.
        guess: boolean ``B x S/2 x S/2``, what the network itself found there, in place of that where ``drawn.walked``.
    """
    size = drawn.mask.shape[-1]
    count = len(drawn.mask)
    truth = F.avg_pool2d(drawn.mask[:, None], 2)[:, 0]
    own, found = extent(drawn.mask > 0.5)
    tight = torch.where(found[:, None], grown(own, drawn.growth), drawn.outer)
    kind = torch.where(found, drawn.kind, drawn.kind.clamp(min=1))
    boxes = torch.where((kind == 0)[:, None], tight, drawn.outer)
    hints = truth.new_zeros(count, len(HINTS), size // 2, size // 2)
    if neighbours:
        beside = deformed(F.avg_pool2d(drawn.beside[:, None], 2) > 0.5, drawn.neighbour)[:, 0]
        if guess is not None:
            beside = torch.where(drawn.walked.view(-1, 1, 1), guess & within(drawn.outer, size // 2), beside)
        around, some = extent(beside)
        share = torch.tensor(_KNOWN, device=kind.device)[kind]
        share = torch.where(drawn.walked & (kind == 0), _KNOWN_AGAIN, share)
        told = some & (torch.rand(count, device=kind.device) < share)
        hints[:, 0] = torch.where(told[:, None, None], beside.float() * 2 - 1, 0.0)
        # as the walk does: the neighbour's extent and a margin, within the box
        around = (around + 0.5) * 2 - 0.5
        around = grown(around, torch.full_like(around, MARGIN)) + around.new_tensor([-1.0, -1.0, 1.0, 1.0])
        around = torch.cat([around[:, :2].maximum(drawn.outer[:, :2]), around[:, 2:].minimum(drawn.outer[:, 2:])], 1)
        usable = some & ((around[:, 2:] - around[:, :2]).amin(1) > 1) & (kind == 2)
        boxes = torch.where(usable[:, None], around, boxes)
        kind = torch.where((kind == 2) & ~usable, 1, kind)
    else:
        kind = kind.clamp(max=1)
    boxes = boxes.clamp(-0.5, size - 0.5)
    return Prompts(boxes, hints, F.one_hot(kind, len(KINDS)).float(), truth)


def within(boxes: Tensor, side: int) -> Tensor:
    """Which pixels of the logits' grid lie in boxes (``B x 4``, network pixels): ``B x side x side``."""
    axis = torch.arange(side, device=boxes.device) * 2 + 0.5
    across = (axis >= boxes[:, :1]) & (axis <= boxes[:, 2:3])
    down = (axis >= boxes[:, 1:2]) & (axis <= boxes[:, 3:])
    return down[:, :, None] & across[:, None]


def looked_at_again(prompts: Prompts, found: Tensor, which: Tensor) -> Prompts:
    """What a vote asks once it has counted: its own extent as a tight box, with a little room.

    Args:
        prompts: that were asked.
        found: boolean ``B x S/2 x S/2``, what was found.
        which: for which of them; the others, and where nothing was found, stay as they are.
    """
    around, some = extent(found)
    around = (around + 0.5) * 2 - 0.5
    size = 2 * found.shape[-1]
    around = grown(around, torch.full_like(around, ROOM)).clamp(-0.5, size - 0.5)
    which = (which & some)[:, None]
    tight = torch.zeros_like(prompts.kinds)
    tight[:, 0] = 1
    return Prompts(
        torch.where(which, around, prompts.boxes), prompts.hints, torch.where(which, tight, prompts.kinds), prompts.truth
    )


def deformed(mask: Tensor, neighbour: Tensor) -> Tensor:
    """A mask as the walk may have left it on a neighbouring slice: moved, grown, bent, a part lost or joined.

    Args:
        mask: boolean ``B x 1 x H x W``.
        neighbour: whether it is another slice's already; it is then spoiled less.
    """
    count, _, side, _ = mask.shape
    like = mask.float()
    edges, _ = extent(mask[:, 0])
    span = (edges[:, 2:] - edges[:, :2]).clamp(min=2)
    center = (edges[:, :2] + edges[:, 2:]) / 2
    much = torch.where(neighbour, 0.35, 1.0)
    scale = torch.exp(torch.randn(count, 2, device=mask.device) * 0.14 * much[:, None] * chosen(0.85, count, like)[:, None])
    shift = torch.randn(count, 2, device=mask.device) * 0.07 * much[:, None] * span
    axis = torch.arange(side, device=mask.device, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    place = torch.stack([x, y], -1)[None]
    knots = torch.randn(count, 2, 5, 5, device=mask.device) * (0.06 * much * span.amax(1)).view(-1, 1, 1, 1)
    bend = F.interpolate(knots, (side, side), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    source = (place - center[:, None, None]) / scale[:, None, None] + center[:, None, None] - shift[:, None, None] + bend
    found = F.grid_sample(like, (source + 0.5) / side * 2 - 1, align_corners=False, mode="bilinear")
    # grown or shrunk by pixels: one of a few widths for the batch, on some
    width = 2 * int(torch.randint(1, 4, ())) + 1
    more = F.max_pool2d(found, width, 1, width // 2)
    less = -F.max_pool2d(-found, width, 1, width // 2)
    draw = torch.rand(count, 1, 1, 1, device=mask.device)
    found = torch.where(draw < 0.15, more, torch.where(draw > 0.85, less, found))
    found = found > 0.5
    # a part that the walk lost: all beyond a line
    angle = uniform(0, 6.2832, like, count)
    along = (x[None] - center[:, :1, None]) * torch.cos(angle).view(-1, 1, 1)
    along = along + (y[None] - center[:, 1:, None]) * torch.sin(angle).view(-1, 1, 1)
    far = along > (uniform(-0.15, 0.4, like, count) * span.amax(1)).view(-1, 1, 1)
    lost = chosen(0.12, count, like) & ~(neighbour & chosen(0.6, count, like))
    found = found & ~(far[:, None] & lost.view(-1, 1, 1, 1))
    # a part that it took in
    away = torch.stack([torch.cos(angle), torch.sin(angle)], 1) * span * uniform(0.4, 0.9, like, count, 1)
    copy = F.grid_sample(like, (source - away[:, None, None] + 0.5) / side * 2 - 1, align_corners=False) > 0.5
    joined = chosen(0.08, count, like) & ~(neighbour & chosen(0.5, count, like))
    return found | (copy & joined.view(-1, 1, 1, 1))
