"""Samples of an atlas that activation scales are initialised from: everything that the network can be told."""

from __future__ import annotations

from dataclasses import replace
from typing import Iterator, Optional, Tuple

import torch
from torch import Tensor

from ..architectures.promptable import Promptable
from .corrections import corrected, next_stroke
from .drawing import Habits
from .fit import FitConfig, Sampler, asked
from .looks import normalised
from .prompts import prompts_of
from .store import Atlas

_BATCH = 8


@torch.no_grad()
def calibration_samples(
    atlas: Atlas,
    model: Promptable,
    count: int,
    seed: int = 0,
    habits: Habits = Habits(),
    rows: Optional[Tensor] = None,
) -> Iterator[Tuple[Tensor, ...]]:
    """Images, boxes, the image of each box and, for a network that takes them, hints and kinds.

    Frames are drawn as the engine does it; every other batch is corrected once.

    Args:
        atlas: on the device of the network.
        model: float, or quantized with scales already: its answers are what is corrected.
        count: of images.
        seed: of what is drawn.
        habits: size and margin of the network's frames.
        rows: of the atlas' table that may be drawn; all where None.
    """
    config = FitConfig(batch=_BATCH, shares=(0.5, 0.35, 0.05, 0.1))
    sampler = Sampler(atlas, config, replace(habits, strength=0.0, flat=1.0), rows)
    for number in range(-(-count // _BATCH)):
        torch.manual_seed(seed * 1_000_003 + number)
        drawn = sampler.draw()
        image = normalised(drawn.image, drawn.valid)
        prompts = prompts_of(drawn)
        hints = prompts.hints
        if number % 2 and model.hints:
            logits, _ = asked(model, model.encode(image), prompts.boxes, hints, prompts.kinds)
            found = logits[:, 0] > 0
            hints = corrected(hints, found, next_stroke(found, prompts.truth > 0.5))
        said = (hints, prompts.kinds) if model.hints else ()
        yield (image, prompts.boxes, torch.arange(len(image), device=image.device), *said)
