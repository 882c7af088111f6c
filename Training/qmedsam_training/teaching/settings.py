"""How it is taught; without torch, so that the command's help is quick."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Lesson:
    """How it is taught.

    Args:
        steps: of the optimiser.
        batch: frames a step.
        rate: highest learning rate.
        warmup: share of the steps in which it rises.
        decay: AdamW's.
        average: of the weights; it rises from 0.1.
        scenes: share of frames that are generated scenes.
        seed: of what is drawn.
    """

    steps: int = 40
    batch: int = 8
    rate: float = 1e-3
    warmup: float = 0.1
    decay: float = 0.02
    average: float = 0.9
    scenes: float = 0.0
    seed: int = 0


LESSON = Lesson()

#: Fewest patients: something to learn from, and something to say how good that is. Below ``FEW`` a model is written on request
#: alone.
LEAST, FEW = 5, 10
