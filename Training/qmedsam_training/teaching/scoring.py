"""What a network finds in cases, by the engine's own way through them: before and after teaching, beside the ellipse."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Callable, Dict, List

import numpy as np
import torch
from qmedsam.evaluation.loop import score_case
from qmedsam.segmenter import Segmenter

from ..architectures.compact import CompactSAM
from ..atlas.drawing import Habits
from ..atlas.fit import asked
from ..atlas.looks import normalised
from ..atlas.prompts import prompts_of
from ..atlas.scenes import scenes
from ..evaluation import TorchNetwork
from .cases import Taught

#: Boxes are up to this share of their sides too large, as users draw them.
JITTER = 0.05
#: Generated objects that tell what was forgotten; of another seed than those that are learned from.
OTHERS, _OTHER_SEED = 64, 7_777
#: Bytes of embeddings that are kept: both networks see the same frames.
_KEPT = 128 << 20


@dataclass(frozen=True)
class Outcome:
    """One object of a case that was not learned from.

    Attributes:
        case: its number.
        target: what it is called.
        before, taught, ellipse: DSC, 0..1, of the network before and after, and of the ellipse in the same box.
        before_nsd, taught_nsd: at 2 mm (pixels on pictures).
    """

    case: int
    target: str
    before: float
    taught: float
    ellipse: float
    before_nsd: float
    taught_nsd: float


class _Remembering(TorchNetwork):
    """Asks the encoder once for a frame, whichever of several networks with the same encoder wants it."""

    def __init__(self, model: CompactSAM, input_size: int, kept: Dict[bytes, np.ndarray]) -> None:
        super().__init__(model, input_size)
        self._kept = kept

    def encode(self, image: np.ndarray) -> np.ndarray:
        key = hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest()
        found = self._kept.get(key)
        if found is None:
            found = super().encode(image)
            if (len(self._kept) + 1) * found.nbytes <= _KEPT:
                self._kept[key] = found
        return found


def outcomes(
    case: Taught, before: CompactSAM, taught: CompactSAM, size: int, cancelled: Callable[[], bool] = lambda: False
) -> List[Outcome]:
    """Every object of a case, segmented with both networks in the same boxes.

    Args:
        case: that neither learned from.
        before, taught: networks with the same encoder.
        size: of their input.
        cancelled: asked after every slice.

    Raises:
        QMedSAMError: the case cannot be segmented.
        Cancelled: ``cancelled()`` turned true.
    """
    kept: Dict[bytes, np.ndarray] = {}
    rows = []
    for model in (before, taught):
        segmenter = Segmenter(network=_Remembering(model, size, kept))
        rows.append([score for score, _ in score_case(case.case, segmenter, jitter=JITTER, cancelled=cancelled)])
    called = dict(case.case.names)
    return [Outcome(case.number, called.get(a.label, a.name), a.dsc, b.dsc, a.ellipse_dsc, a.nsd, b.nsd) for a, b in zip(*rows)]


@torch.no_grad()
def dsc_of_others(model: CompactSAM, habits: Habits) -> float:
    """Mean DSC on generated objects of other kinds, always the same ones."""
    state = torch.random.get_rng_state()
    values = []
    try:
        for number in range(OTHERS // 16):
            torch.manual_seed(_OTHER_SEED + number)
            drawn = scenes(16, habits, torch.device("cpu"))
            prompts = prompts_of(drawn)
            embedding = model.encode(normalised(drawn.image, drawn.valid))
            found = asked(model, embedding, prompts.boxes, prompts.hints, prompts.kinds)[0][:, 0] > 0
            wanted = prompts.truth > 0.5
            both = (found & wanted).flatten(1).sum(1)
            total = found.flatten(1).sum(1) + wanted.flatten(1).sum(1)
            some = wanted.flatten(1).any(1)
            values.append((2 * both / total.clamp(min=1))[some])
    finally:
        torch.random.set_rng_state(state)
    return float(torch.cat(values).mean())
