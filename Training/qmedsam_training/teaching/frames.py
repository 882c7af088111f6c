"""Frames around the objects of cases, with the embedding that the fixed encoder gives them: drawn once, learned from often.

A case is packed as for an atlas, drawn from, and let go; its frames stay in a file, so that a run that was stopped does not
draw them again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import torch
from qmedsam import QMedSAMError
from torch import Tensor

from ..architectures.compact import CompactSAM
from ..atlas.build import packed
from ..atlas.drawing import Drawn, Habits
from ..atlas.fit import FitConfig, Sampler
from ..atlas.looks import normalised, repainted
from ..atlas.scenes import scenes
from ..atlas.store import read_atlas, write_atlas
from ..config import NetworkConfig
from .cases import Taught

#: How much looks and shapes are changed: little, for few steps are better spent near what will be asked.
STRENGTH = 0.2
#: How often each kind of box is asked of pictures (their own tight one alone, as users draw them) and of volumes.
_KINDS = ((1.0, 0.0, 0.0), (0.25, 0.45, 0.3))
#: Frames of a batch that is drawn and encoded at once, and share of them that are homogeneous regions of the images.
_BATCH = 16
_REGIONS = 0.1
#: Images of a case that are kept whole, for the scales of the quantized encoder.
SHOWN = 8


@dataclass(frozen=True)
class Frames:
    """``N`` frames as a decoder learns from them. What is asked of them is drawn anew in every step.

    Attributes:
        embedding: ``N x C x G x G``, float16.
        mask, beside: ``N x S x S``, 0..255.
        outer, growth: ``N x 4``.
        kind, neighbour, is_3d: ``N``. All of these as in :class:`~qmedsam_training.atlas.drawing.Drawn`.
        image: of the first :data:`SHOWN` frames, normalised, float16.
    """

    embedding: Tensor
    mask: Tensor
    beside: Tensor
    outer: Tensor
    growth: Tensor
    kind: Tensor
    neighbour: Tensor
    is_3d: Tensor
    image: Tensor

    def __len__(self) -> int:
        return len(self.kind)

    def drawn(self, rows: Tensor) -> Drawn:
        """Some of them as what prompts are made of, without their images."""
        nothing = self.outer.new_zeros(0)
        mask, beside = (part[rows].float() / 255 for part in (self.mask, self.beside))
        neighbour = self.neighbour[rows]
        about = (self.is_3d[rows], self.kind[rows], self.outer[rows], self.growth[rows])
        return Drawn(nothing, nothing, mask, beside, neighbour, torch.zeros_like(neighbour), *about)

    def save(self, path: Path) -> None:
        """Written beside and renamed."""
        partial = path.with_suffix(".partial")
        torch.save({part.name: getattr(self, part.name) for part in fields(self)}, partial)
        os.replace(partial, path)

    @classmethod
    def read(cls, path: Path) -> Optional[Frames]:
        """What :meth:`save` wrote; None where there is none, or it is damaged."""
        try:
            return cls(**torch.load(path, weights_only=True))
        except Exception:  # a truncated file brings out anything: the frames are drawn again
            return None


def habits_for(network: NetworkConfig) -> Habits:
    """Frames as the engine draws them for a network, with the three channels of one slice."""
    return Habits(size=network.side, margin=network.margin, strength=STRENGTH, kinds=_KINDS, flat=1.0)


def frames_of(taught: Taught, model: CompactSAM, habits: Habits, count: int, seed: int, scratch: Path) -> Frames:
    """Frames of a case.

    Args:
        taught: the case.
        model: whose encoder is asked; in evaluation mode.
        habits: of drawing.
        count: of frames.
        seed: of what is drawn.
        scratch: an atlas that is written, read and removed.
    """
    write_atlas(scratch, [packed(taught.case)])
    try:
        atlas = read_atlas(scratch)
    finally:
        scratch.unlink(missing_ok=True)
    shares = (1 - _REGIONS, 1 - _REGIONS, _REGIONS, 0.0)
    parts: List[Frames] = []
    for start in range(0, count, _BATCH):
        torch.manual_seed((seed * 1_000_003 + taught.number) * 1_009 + start)
        sampler = Sampler(atlas, FitConfig(batch=min(_BATCH, count - start), shares=shares), habits)
        parts.append(_encoded(sampler.draw(), model))
    return joined(parts)


def frames_of_scenes(model: CompactSAM, habits: Habits, count: int, seed: int) -> Frames:
    """Frames of generated scenes: other objects, that are not to be forgotten."""
    parts: List[Frames] = []
    for start in range(0, count, _BATCH):
        torch.manual_seed(seed * 1_000_003 + start)
        parts.append(_encoded(scenes(min(_BATCH, count - start), habits, torch.device("cpu")), model))
    return joined(parts)


@torch.no_grad()
def _encoded(drawn: Drawn, model: CompactSAM) -> Frames:
    image = normalised(repainted(drawn.image, drawn.is_3d, STRENGTH), drawn.valid)
    mask, beside = ((part.clamp(0, 1) * 255).round().to(torch.uint8) for part in (drawn.mask, drawn.beside))
    about = (drawn.outer, drawn.growth, drawn.kind, drawn.neighbour, drawn.is_3d)
    return Frames(model.encode(image).half(), mask, beside, *about, image[:SHOWN].half())


def joined(parts: Sequence[Frames]) -> Frames:
    """One after another; of the images the first part's alone."""
    if not parts:
        raise QMedSAMError("There is nothing to draw from.", "Add cases.")
    values: Dict[str, Tensor] = {
        part.name: torch.cat([getattr(one, part.name) for one in parts]) for part in fields(Frames) if part.name != "image"
    }
    return Frames(**values, image=torch.cat([p.image for p in parts])[:SHOWN])


def bytes_of_frame(model: CompactSAM, size: int) -> int:
    """What one frame takes in memory and on the disk, about."""
    with torch.no_grad():
        embedding = model.encode(torch.zeros(1, 3, size, size))
    return embedding.numel() * 2 + 2 * size * size
