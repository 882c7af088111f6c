"""A network to teach that is made in seconds: tiny, and shown a few generated scenes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from qmedsam_training import networks
from qmedsam_training.atlas.drawing import Habits
from qmedsam_training.config import NetworkConfig
from qmedsam_training.teaching.frames import frames_of_scenes
from qmedsam_training.teaching.lesson import taught
from qmedsam_training.teaching.settings import Lesson

_TINY = {"widths": [8, 16, 16, 24, 24], "depths": [1, 1, 1, 1], "embed": 16, "width": 32, "deep": 32}


def tiny_base(path: Path, steps: int = 25) -> Path:
    """Write a float checkpoint at 64 pixels that takes hints."""
    torch.manual_seed(0)
    network = NetworkConfig(options={**_TINY, "hints": 4, "kinds": 3, "candidates": 3}, input_size=64)
    model: Any = networks.make(network).eval()
    scenes = frames_of_scenes(model, Habits(size=64, flat=1.0), 32, 0)
    model, _ = taught(model, [scenes], scenes, Lesson(steps=steps, rate=3e-3))
    networks.save(path, model, network)
    return path
