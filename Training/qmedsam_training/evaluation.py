"""Held-out objects scored on their own slices, whichever runtime the network runs in."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np
import torch
from qmedsam.evaluation.scores import dsc, ellipse_mask, nsd
from qmedsam.network import Network

from .architectures.promptable import Promptable
from .data import HeldOut
from .selection import Scores

#: mm; pixels on pictures. The challenge's value.
NSD_TOLERANCE = 2.0


class TorchNetwork:
    """A torch model, float or fake-quantized, behind the engine's :class:`~qmedsam.network.Network`."""

    block = 16

    def __init__(self, model: Promptable, input_size: int) -> None:
        self.model, self.input_size = model.eval(), input_size
        self.hinted, self.depth_px, self.streams = bool(model.hints), 0.0, 1
        self.device = next(model.parameters()).device

    @torch.no_grad()
    def encode(self, image: np.ndarray) -> np.ndarray:
        """``3 x S x S`` to ``1 x C x G x G``."""
        return self.model.encode(torch.from_numpy(image)[None].to(self.device)).float().cpu().numpy()

    @torch.no_grad()
    def decode(
        self,
        embedding: np.ndarray,
        boxes_uv: np.ndarray,
        hints: Optional[np.ndarray] = None,
        kinds: Optional[np.ndarray] = None,
    ) -> Tuple[np.ndarray, np.ndarray]:
        """Logits ``N x C x m x m`` and predicted IoU ``N x C``."""
        image, boxes = (torch.from_numpy(np.asarray(a, np.float32)).to(self.device) for a in (embedding, boxes_uv))
        said = list(self.model.silence(boxes))
        for n, given in enumerate((hints, kinds)):
            if said and given is not None:
                said[n] = torch.from_numpy(np.asarray(given, np.float32)).to(self.device)
        logits, confidence = self.model.predict(image, boxes * self.model.prompt_scale, *said)
        shape = (len(boxes), self.model.candidates)
        return logits.reshape(*shape, *logits.shape[-2:]).float().cpu().numpy(), confidence.reshape(shape).float().cpu().numpy()


@dataclass(frozen=True)
class Result:
    """DSC and NSD of one held-out object, 0..1."""

    group: str
    patient: str
    dsc: float
    nsd: float


def predicted(network: Network, held: HeldOut) -> np.ndarray:
    """The logits within the object's box, on the slice's own pixels; the mask is where they are above 0."""
    logits, _ = network.decode(network.encode(held.image.numpy()), held.box.numpy())
    return held.frame.restore(logits[0, 0], held.pixels)


def score(network: Network, samples: Iterable[HeldOut], with_nsd: bool = True) -> List[Result]:
    """Every held-out object's scores; without NSD (which costs more than a small network) it is NaN."""
    return [_result(held, predicted(network, held) > 0, with_nsd) for held in samples]


def score_ellipse(samples: Iterable[HeldOut], with_nsd: bool = True) -> List[Result]:
    """What the ellipse inscribed in every object's box is worth: a network has to be better than that."""
    return [_result(held, ellipse_mask(held.rectangle, held.pixels), with_nsd) for held in samples]


def _result(held: HeldOut, mask: np.ndarray, with_nsd: bool = True) -> Result:
    surface = nsd(mask, held.truth, held.spacing_yx, NSD_TOLERANCE) if with_nsd else math.nan
    return Result(held.group, held.patient, dsc(mask, held.truth), surface)


def by_threshold(network: Network, samples: Iterable[HeldOut], thresholds: Sequence[float]) -> List[float]:
    """Mean DSC over groups for every threshold of the logits.

    The pixels that are more likely than not are not the mask of the best expected DSC: that one takes every pixel more likely
    than half of that DSC (Lipton, Elkan, Naryanaswamy, "Optimal thresholding of classifiers to maximize F1 measure", 2014).
    """
    groups: Dict[str, List[List[float]]] = defaultdict(list)
    for held in samples:
        logits = predicted(network, held)
        groups[held.group].append([dsc(logits > threshold, held.truth) for threshold in thresholds])
    return np.mean([np.mean(rows, axis=0) for rows in groups.values()], axis=0).tolist()


def interval(results: Sequence[Result]) -> str:
    """95 % bootstrap interval of the mean DSC over groups; patients are drawn, within their groups."""
    low, high = Scores([r.group for r in results], [r.patient for r in results], {}).interval(np.array([r.dsc for r in results]))
    return f"{low:.3f} to {high:.3f}" if low == low else "one patient"


def by_group(results: Sequence[Result]) -> Dict[str, Tuple[int, float, float]]:
    """Per group: number of objects, mean DSC, mean NSD."""
    groups: Dict[str, List[Result]] = defaultdict(list)
    for result in results:
        groups[result.group].append(result)
    return {
        name: (len(rows), float(np.mean([r.dsc for r in rows])), float(np.mean([r.nsd for r in rows])))
        for name, rows in sorted(groups.items())
    }


def mean_of_groups(results: Sequence[Result]) -> Tuple[float, float]:
    """DSC and NSD averaged within groups first, so that a large source does not decide; NaN without results."""
    groups = by_group(results).values()
    if not groups:
        return math.nan, math.nan
    return float(np.mean([g[1] for g in groups])), float(np.mean([g[2] for g in groups]))
