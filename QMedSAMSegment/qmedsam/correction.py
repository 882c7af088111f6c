"""What strokes change: the slices that they lie on are asked anew, the slices beside them follow, the strokes themselves hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Callable, Dict, List, Optional, Tuple

import numpy as np

from .carrying import carry_on
from .corrector import Corrector, Crop
from .geometry import Box
from .predictor import SlicePredictor
from .strategies import Item


@dataclass
class Correction:
    """An object after its strokes were heard.

    Attributes:
        crop: ``(k, j, i)`` slices of the volume; the object has no voxel outside.
        mask_kji_crop: the whole object within ``crop``, boolean.
        box: that it was asked with, grown where a stroke lay outside.
        confidence: predicted IoU on the slice corrected last; 0 where the network was not asked.
        candidates: predicted IoU of that slice's answers, the surest first.
        messages: sentences for the user.
        seconds: per stage, and ``total``.
        cancelled: stopped early; the mask then holds the slices done so far.
        model: name of the model that was asked.
    """

    crop: Crop
    mask_kji_crop: np.ndarray = field(repr=False)
    box: Box
    confidence: float = 0.0
    candidates: Tuple[float, ...] = ()
    messages: List[str] = field(default_factory=list)
    seconds: Dict[str, float] = field(default_factory=dict)
    cancelled: bool = False
    model: str = ""


def correct(
    corrector: Corrector,
    predictor_of: Callable[[Item], SlicePredictor],
    candidate: int = 0,
    shown: Optional[Tuple[int, int]] = None,
    tick: Callable[[int, int], bool] = lambda done, total: False,
) -> Tuple[Tuple[float, ...], bool]:
    """Ask what the strokes leave open, slice by slice.

    Args:
        corrector: the object and its strokes.
        predictor_of: brings a view's predictor.
        candidate: 0 for the surest answer on the last stroke's slice, 1 and 2 for the others.
        shown: ``(axis, index)``: this slice alone.
        tick: called with done and total slices; true stops.

    Returns:
        Predicted IoUs on the last slice, the taken one's first (empty where nothing was asked), and whether it ran to the end.
    """
    wanted = [at for at in corrector.asked if at not in corrector.kept and shown in (None, at)]
    heard: Tuple[float, ...] = ()
    finished = True
    for done, (axis, index) in enumerate(wanted, 1):
        last = done == len(wanted)
        heard = corrector.ask(predictor_of(corrector.item(axis)), axis, index, candidate if last else 0)
        if shown is None:
            carry_on(corrector, predictor_of, axis, index)
        if tick(done, len(wanted)) and not last:
            finished = False
            break
    corrector.settle()
    return heard, finished
