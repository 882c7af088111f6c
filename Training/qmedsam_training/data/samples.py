"""What one training image is, what a held-out one is, and batches of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, List, Optional, Protocol, Sequence, Tuple

import numpy as np
import torch
from qmedsam import QMedSAMError
from qmedsam.frames import Frame
from qmedsam.geometry import Pixels, Rectangle, View, extent_of
from qmedsam.intensity import normalise
from torch import Tensor

from ..architectures import Architecture
from ..config import DataConfig

#: Fewest network pixels of an object that is worth a prompt. Below, resampling decides what is left of it.
LEAST_PIXELS = 20
#: After this many draws that left nothing of their object, nothing is expected any more.
MOST_DRAWS = 1000


@dataclass(frozen=True)
class Sample:
    """A normalised frame, the boxes on it and their masks."""

    image: Tensor  # 3 x S x S
    boxes: Tensor  # N x 4, network pixels, edges
    masks: Tensor  # N x S x S, 0..1


@dataclass(frozen=True)
class HeldOut:
    """One object on one slice as the engine would be asked for it, scored on the slice's own pixels."""

    group: str
    patient: str  # with its source: unlike any other
    image: Tensor  # 3 x S x S
    box: Tensor  # 1 x 4, network pixels
    rectangle: Rectangle  # the same on the slice
    frame: Frame
    pixels: Pixels  # within the box
    truth: np.ndarray  # boolean, of those pixels
    spacing_yx: Tuple[float, float]  # mm; ones on pictures


@dataclass(frozen=True)
class Preparation:
    """How a network wants its frames: fields of the architecture and of the configuration."""

    size: int
    normalization: dict
    margin: float
    frame: str  # "roi" or "slice": the one at run time

    @classmethod
    def of(
        cls,
        architecture: Architecture,
        size: Optional[int] = None,
        margin: Optional[float] = None,
        frame: Optional[str] = None,
    ) -> Preparation:
        """What an architecture wants, at another size, margin or frame where given."""
        chosen = architecture.frame.get("margin", 0.3) if margin is None else margin
        return cls(size or architecture.input_size, architecture.normalization, chosen, frame or architecture.frame["kind"])

    def normalise(self, drawn: np.ndarray, valid: np.ndarray) -> Tensor:
        """``S x S (x 3)`` in 0..1 to ``3 x S x S``; the engine's own function."""
        kind = self.normalization
        return torch.from_numpy(normalise(drawn, valid, kind["kind"], kind.get("mean", ()), kind.get("std", ())))


class Source(Protocol):
    """Where samples come from. What is drawn depends on epoch, position and seed alone, never on who draws it."""

    @property
    def preparation(self) -> Preparation:
        """How images are framed and normalised."""
        ...

    def describe(self) -> List[Tuple[str, int, int]]:
        """Name, cases and prompts of every part of the data."""
        ...

    @property
    def skipped(self) -> List[Tuple[str, str]]:
        """Cases or files that could not be used, with the reason."""
        ...

    def to_come(self, forked: bool) -> int:
        """Bytes by which the cache of each process that draws still grows; ``forked``: these are workers."""
        ...

    def epoch(self, number: int) -> np.ndarray:
        """Keys of an epoch's samples in the order of training."""
        ...

    def sample(self, key: int, rng: np.random.Generator) -> Sample:
        """One augmented sample."""
        ...

    def held_out(self) -> List[HeldOut]:
        """Fixed samples of other patients, without augmentation."""
        ...


def spread(sizes: Sequence[int], count: int) -> List[Tuple[int, int]]:
    """Which objects of a group's patients are scored: of every patient equally many, evenly spread, ``count`` in all or a
    little more; at least one of each patient.

    Args:
        sizes: how many objects each patient has.
        count: of the group.

    Returns:
        Pairs of patient and object.
    """
    each = max(-(-count // max(len(sizes), 1)), 1)
    return [(p, int(n)) for p, size in enumerate(sizes) for n in np.unique(np.linspace(0, size - 1, each).astype(int)) if size]


def told(skipped: Sequence[Tuple[str, str]]) -> str:
    """How many cases or files could not be used, and why the first ones."""
    reasons = " ".join(f"{name}: {reason}" for name, reason in skipped[:3])
    return f"{len(skipped)} of the cases could not be used; the first: {reasons}"


def framed(view: View, rectangle: Rectangle, preparation: Preparation) -> Frame:
    """The run-time frame: around the rectangle, or the whole slice."""
    if preparation.frame == "roi":
        return Frame.around(rectangle, view, preparation.size, preparation.margin)
    return Frame.whole_slice(view, preparation.size)


def held_out_sample(
    group: str,
    patient: str,
    pixels: np.ndarray,
    mask: np.ndarray,
    view: View,
    preparation: Preparation,
    prepare: Callable[[np.ndarray], np.ndarray],
    in_mm: bool,
    config: DataConfig,
    rng: np.random.Generator,
) -> HeldOut:
    """Frame one object with its box, as at run time.

    Args:
        group: it is averaged in.
        patient: whose it is.
        pixels: slice, ``rows x columns (x 3)``.
        mask: of the object on it; not empty.
        view: of the slice.
        preparation: of the network.
        prepare: grey values to 0..1.
        in_mm: whether the view's spacing means something.
        config: how far the sides of the tight box move outward.
        rng: of those moves.
    """
    tight = extent_of(mask)
    assert tight is not None
    x0, y0, x1, y1 = tight
    a, b, c, d = rng.uniform(0, config.held_out_jitter, 4)
    rows, columns = mask.shape
    rectangle = (
        max(x0 - a * (x1 - x0), -0.5),
        max(y0 - b * (y1 - y0), -0.5),
        min(x1 + c * (x1 - x0), columns - 0.5),
        min(y1 + d * (y1 - y0), rows - 0.5),
    )
    frame = framed(view, rectangle, preparation)
    drawn, valid = frame.sample(pixels, prepare)
    window = view.pixels_of(rectangle)
    x, y = view.pixel_mm
    return HeldOut(
        group,
        patient,
        preparation.normalise(drawn, valid),
        torch.tensor([frame.to_network(rectangle)], dtype=torch.float32),
        rectangle,
        frame,
        window,
        mask[window[1] : window[3], window[0] : window[2]] > 0.5,
        (y, x) if in_mm else (1.0, 1.0),
    )


def finished(
    image: np.ndarray,
    valid: np.ndarray,
    masks: np.ndarray,
    prompts: np.ndarray,
    preparation: Preparation,
    rng: np.random.Generator,
    box_shift: Optional[float],
    ended: Sequence[bool] = (),
) -> Optional[Sample]:
    """Boxes of what is left of the prompts, moved as users draw them; None when no object is left (nearly) whole.

    A label that vanishes in resampling must not come out as "label 0", the whole background (model facts 1.6), nor as an
    object that is not there: nothing is the right answer only where the slice itself holds nothing.

    Args:
        image, valid: the frame, ``S x S (x 3)``, and which of its pixels lie on the slice.
        masks, prompts: ``N x S x S``; a box is the extent of a prompt.
        preparation: of the network.
        rng: of the boxes' sides.
        box_shift: see the configuration.
        ended: which masks hold nothing on the slice either; default: none.
    """
    boxes, kept = [], []
    last = preparation.size - 0.5
    for n, (mask, prompt) in enumerate(zip(masks, prompts)):
        rectangle = extent_of(prompt > 0.5)
        if rectangle is None or (prompt > 0.5).sum() < LEAST_PIXELS:
            continue
        if (mask > 0.5).sum() < LEAST_PIXELS and not (n < len(ended) and ended[n]):
            continue
        if box_shift is None:
            x0, y0, x1, y1 = jittered(rectangle, rng)
        else:
            low, high = rng.uniform(0, box_shift * preparation.size / 256, (2, 2))
            x0, y0, x1, y1 = np.array(rectangle) + [-low[0], -low[1], high[0], high[1]]
        boxes.append((max(x0, -0.5), max(y0, -0.5), min(x1, last), min(y1, last)))  # at run time none reaches out of the frame
        kept.append(mask)
    if not kept:
        return None
    return Sample(
        preparation.normalise(image, valid),
        torch.tensor(np.array(boxes), dtype=torch.float32),
        torch.from_numpy(np.stack(kept).astype(np.float32)),
    )


def first_drawn(draw: Callable[[int], Optional[Sample]], what: str, preparation: Preparation) -> Sample:
    """The first draw that left something of its object; ``draw`` is told how many did not.

    Raises:
        QMedSAMError: none did.
    """
    for failed in range(MOST_DRAWS):
        sample = draw(failed)
        if sample is not None:
            return sample
    raise QMedSAMError(
        f"{MOST_DRAWS} draws from {what} left no object of {LEAST_PIXELS} pixels at {preparation.size} x {preparation.size}.",
        "Raise input_size, lower data.whole_slice, or leave these images out.",
    )


def jittered(rectangle: Rectangle, rng: np.random.Generator) -> Tuple[float, ...]:
    """Move every side: mostly a little outward, sometimes a little inward, seldom far out (a 3D box's end slices)."""
    x0, y0, x1, y1 = rectangle
    kind = rng.random()
    low, high = (0.0, 0.0) if kind < 0.25 else (-0.02, 0.1) if kind < 0.85 else (0.0, 0.35)
    a, b, c, d = rng.uniform(low, high, 4)
    width, height = x1 - x0, y1 - y0
    return x0 - a * width, y0 - b * height, x1 + c * width, y1 + d * height


def collate(samples: Sequence[Sample]) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images ``B x 3 x S x S``, boxes ``N x 4``, masks ``N x S x S`` and the image that each box belongs to, ``N``."""
    owner = torch.cat([torch.full((len(s.boxes),), b) for b, s in enumerate(samples)])
    return (
        torch.stack([s.image for s in samples]),
        torch.cat([s.boxes for s in samples]),
        torch.cat([s.masks for s in samples]),
        owner,
    )
