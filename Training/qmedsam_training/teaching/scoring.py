"""What a network finds in cases, by the engine's own way through them: before and after teaching, beside the ellipse."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from qmedsam import Volume
from qmedsam.evaluation.cases import Case
from qmedsam.evaluation.loop import score_case
from qmedsam.files import read_volume
from qmedsam.files.labelled import LabelMap
from qmedsam.segmenter import Segmenter
from torch import Tensor

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
#: How far from the untaught network (0) to the taught one (1) a network may lie that is chosen among.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
#: Objects of a picture and of a volume that are scored at most: pictures of cells have hundreds, and an object of a volume
#: is asked for on a hundred slices.
MOST_OBJECTS = (24, 8)
#: Generated objects that tell what was forgotten; of another seed than those that are learned from.
OTHERS, _OTHER_SEED = 64, 7_777
#: Bytes of embeddings that are kept: all candidates see the same frames.
KEPT = 384 << 20


@dataclass(frozen=True)
class Tried:
    """One object of a case that was not learned from, found by every candidate.

    Attributes:
        case, patient: their numbers.
        target: what it is called.
        ellipse: DSC, 0..1, of the ellipse in the same box.
        dsc: of the networks at each of :data:`SHARES`.
        nsd: likewise, at 2 mm (pixels on pictures).
    """

    case: int
    patient: int
    target: str
    ellipse: float
    dsc: Sequence[float]
    nsd: Sequence[float]


@dataclass(frozen=True)
class Outcome:
    """One object of a case that was not learned from, before and after.

    Attributes:
        case, patient, target: as of :class:`Tried`.
        before, taught, ellipse: DSC, 0..1, of the network before and after, and of the ellipse in the same box.
        before_nsd, taught_nsd: at 2 mm (pixels on pictures).
    """

    case: int
    patient: int
    target: str
    before: float
    taught: float
    ellipse: float
    before_nsd: float
    taught_nsd: float


@dataclass(frozen=True)
class _Loaded(Case):
    """A case whose files are read once, however often it is scored."""

    content: Optional[Tuple[Volume, LabelMap]] = None

    def load(self, read: Callable[..., Volume] = read_volume) -> Tuple[Volume, LabelMap]:
        assert self.content is not None, "made by _loaded"
        return self.content


def _loaded(case: Case) -> _Loaded:
    return _Loaded(**{one.name: getattr(case, one.name) for one in fields(Case)}, content=case.load())


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
            if (len(self._kept) + 1) * found.nbytes <= KEPT:
                self._kept[key] = found
        return found


def tried(
    case: Taught, patient: int, models: Sequence[CompactSAM], size: int, cancelled: Callable[[], bool] = lambda: False
) -> List[Tried]:
    """Objects of a case (:data:`MOST_OBJECTS` at most), segmented with every network in the same boxes.

    Args:
        case: that none learned from.
        patient: its number.
        models: networks with the same encoder, one for each of :data:`SHARES`.
        size: of their input.
        cancelled: asked after every slice.

    Raises:
        QMedSAMError: the case cannot be segmented.
        Cancelled: ``cancelled()`` turned true.
    """
    kept: Dict[bytes, np.ndarray] = {}
    loaded, rows = _loaded(case.case), []
    for model in models:
        segmenter = Segmenter(network=_Remembering(model, size, kept))
        found = score_case(loaded, segmenter, jitter=JITTER, cancelled=cancelled, most=MOST_OBJECTS[case.case.is_3d])
        rows.append([score for score, _ in found])
    called = dict(case.case.names)
    return [
        Tried(
            case.number,
            patient,
            called.get(of[0].label, of[0].name),
            of[0].ellipse_dsc,
            [score.dsc for score in of],
            [score.nsd for score in of],
        )
        for of in zip(*rows)
    ]


@torch.no_grad()
def dsc_of_others(models: Sequence[CompactSAM], habits: Habits) -> List[float]:
    """Mean DSC of networks with the same encoder on generated objects of other kinds, always the same ones."""
    state = torch.random.get_rng_state()
    values: List[List[Tensor]] = [[] for _ in models]
    try:
        for number in range(OTHERS // 16):
            torch.manual_seed(_OTHER_SEED + number)
            drawn = scenes(16, habits, torch.device("cpu"))
            prompts = prompts_of(drawn)
            embedding = models[0].encode(normalised(drawn.image, drawn.valid))
            wanted = prompts.truth > 0.5
            some = wanted.flatten(1).any(1)
            for model, of in zip(models, values):
                found = asked(model, embedding, prompts.boxes, prompts.hints, prompts.kinds)[0][:, 0] > 0
                both = (found & wanted).flatten(1).sum(1)
                total = found.flatten(1).sum(1) + wanted.flatten(1).sum(1)
                of.append((2 * both / total.clamp(min=1))[some])
    finally:
        torch.random.set_rng_state(state)
    return [float(torch.cat(of).mean()) for of in values]
