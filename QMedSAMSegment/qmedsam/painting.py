"""A run's boxes on their way into one label array."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from .errors import QMedSAMError
from .frames import Frame
from .geometry import Box, View, Volume, extent_of
from .measures import Diameters, diameters
from .strategies import Item, SliceMask
from .strategies.thin import walked_along

#: ``progress(done, total)`` in box-slices; ``cancelled()`` is asked after every slice.
Progress = Callable[[int, int], None]
Cancelled = Callable[[], bool]

#: Network pixels below which a long object is lost: strips of 3000 px were found from 2.6 (``slice``) and 5.3 (``roi``).
THIN = 4
_NOTHING = "Nothing was found in the box"


@dataclass
class ObjectResult:
    """What became of one box.

    Attributes:
        label: value in the label array.
        name: of the box.
        voxels: that carry its label in the label array.
        volume_ml: the same in millilitres; it means nothing where ``Volume.has_ml`` is false.
        covered: voxels of its own mask that a smaller box's label covers.
        confidence: predicted IoU, averaged over its slices by area; 0 for an empty mask.
        slices: how many slices its mask is on.
        crop: ``(k, j, i)`` slices of the voxels that the box can touch.
        mask_kji_crop: its own mask in ``crop`` (only with ``keep_masks``).
        diameters: its longest axial diameter, and across it; None for an empty mask, and where the image tells no lengths.
        error: why the box could not be segmented, for the user; empty for most. Its ``crop`` and mask are empty then.
    """

    label: int
    name: str
    crop: Tuple[slice, slice, slice]
    voxels: int = 0
    volume_ml: float = 0.0
    covered: int = 0
    confidence: float = 0.0
    slices: int = 0
    mask_kji_crop: Optional[np.ndarray] = field(default=None, repr=False)
    diameters: Optional[Diameters] = field(default=None, repr=False)
    error: str = ""

    def measure(self, labels_kji: np.ndarray, ijk_to_ras: np.ndarray, measured: bool) -> None:
        """Count what carries its label, ``(k, j, i)`` of the volume, and measure it where the volume tells lengths."""
        labels = labels_kji[self.crop]
        # slice by slice: comparing a whole crop would add a byte per voxel to the peak
        self.voxels = sum(int(np.count_nonzero(plane == self.label)) for plane in labels)
        self.volume_ml = self.voxels * abs(np.linalg.det(ijk_to_ras[:3, :3])) / 1000
        start = [part.start for part in self.crop]
        self.diameters = diameters(labels, ijk_to_ras, start, self.label) if measured else None

    def facts(self, flat: bool) -> Dict[str, Any]:
        """What reports and tables of runs hold of it; ``flat``: it has no millilitres."""
        size = self.diameters
        return {
            "label": self.label,
            "name": self.name,
            "voxels": self.voxels,
            "covered": self.covered,
            "volume_ml": None if flat else self.volume_ml,
            "long_mm": None if size is None else round(size.long_mm, 3),
            "short_mm": None if size is None else round(size.short_mm, 3),
            "long_ijk": None if size is None else size.long_ijk.round(3).tolist(),
            "short_ijk": None if size is None else size.short_ijk.round(3).tolist(),
            "confidence": self.confidence,
            "slices": self.slices,
            "error": self.error,
        }


def labelled(boxes: Sequence[Box]) -> List[Box]:
    """Boxes with labels: given ones kept, the others numbered by position."""
    boxes = list(boxes)
    if not boxes:
        raise QMedSAMError("There is no box to segment.", "Draw one, or give one with --box or --boxes.")
    if len(boxes) > np.iinfo(np.uint16).max:
        raise QMedSAMError(f"{len(boxes)} boxes are more than a label map can hold.", "Segment them in several runs.")
    numbered = [replace(box, label=box.label or n) for n, box in enumerate(boxes, start=1)]
    if not all(0 < box.label <= np.iinfo(np.uint16).max for box in numbered):
        raise QMedSAMError("The label of a box is not a number from 1 to 65535.", "Leave it out to number the boxes.")
    if len({box.label for box in numbered}) < len(numbered):
        raise QMedSAMError("Two boxes have the same label.", "Give every box a label of its own, or none at all.")
    return [replace(box, name=box.name or f"Segment_{box.label}") for box in numbered]


class Run:
    """Boxes on their way into one label array.

    Args:
        volume: that is segmented.
        boxes: with labels that differ. One that cannot be segmented is named in its object and in the messages; the others go on.
        keep_masks: also keep every box's own mask.
        messages: for the user, added to.

    Attributes:
        boxes: those that can be segmented.
        objects: one for every box given.
        items: one for each of ``boxes``.

    Raises:
        QMedSAMError: no box can be segmented.
    """

    def __init__(self, volume: Volume, boxes: List[Box], keep_masks: bool, messages: List[str]) -> None:
        self._shape_ijk, self._messages = volume.shape_ijk, messages
        self._lengths = volume.ijk_to_ras, volume.measured  # not the volume: callers let go of it
        top = max(box.label for box in boxes)
        self.labels_kji = np.zeros(volume.array_kji.shape[:3], np.uint8 if top <= 255 else np.uint16)
        self.agreement_kji: Optional[np.ndarray] = None
        # Smaller boxes lie on top (a lesion drawn inside an organ), whatever the order of drawing and of computing.
        self._size_of = np.full(top + 1, np.inf)
        for box in boxes:
            self._size_of[box.label] = box.volume_voxels
        self.objects, errors = [], []
        for box in boxes:
            try:
                self.objects.append(self._object(box, keep_masks, messages))
            except QMedSAMError as error:
                nothing = np.zeros((0, 0, 0), bool) if keep_masks else None
                empty = (slice(0, 0),) * 3
                self.objects.append(ObjectResult(box.label, box.name, empty, mask_kji_crop=nothing, error=str(error)))
                errors.append(error)
        if len(errors) == len(boxes):
            raise errors[0]
        messages.extend(f"{error.message} The others were segmented." for error in errors)
        self.boxes = [box for box, out in zip(boxes, self.objects) if not out.error]
        self.items = []
        for box, out in ((box, out) for box, out in zip(boxes, self.objects) if not out.error):
            # A box on one or two coronal or sagittal slices, or few thick ones, is segmented there: from the side it is a line.
            view = View.of(volume, walked_along(box, volume))
            self.items.append(Item(box, view, self._writer(box, view, out)))
        self._lock = threading.Lock()
        self._certain: Dict[int, List[float]] = {box.label: [] for box in boxes}
        self.total = self.done = 0

    def _object(self, box: Box, keep_masks: bool, messages: List[str]) -> ObjectResult:
        corners, shape = box.corners_ijk, np.array(self._shape_ijk)
        low, high = corners.min(axis=0), corners.max(axis=0)
        if (high <= -0.5).any() or (low >= shape - 0.5).any():
            raise QMedSAMError(
                f"The box '{box.name}' lies outside the image "
                f"(voxels {np.round(low).astype(int).tolist()} to {np.round(high).astype(int).tolist()}; "
                f"the image has {shape.tolist()}).",
                "Move it onto the image; voxel indices start at 0.",
            )
        first = np.maximum(np.ceil(low - 1e-6), 0).astype(int)
        stop = np.minimum(np.floor(high + 1e-6), shape - 1).astype(int) + 1
        if (stop <= first).any():
            axis = "ijk"[int(np.argmax(stop <= first))]
            raise QMedSAMError(
                f"The box '{box.name}' is thinner than a voxel along {axis} and contains no voxel centre.",
                "Make it at least one voxel thick.",
            )
        beyond = (low < -1) | (high > shape)
        if beyond.any():
            axes = [f"{'ijk'[n]} ({int(np.ceil(low[n]))} to {int(np.floor(high[n]))}, not 0 to {shape[n] - 1})" for n in range(3)]
            along = " and ".join(text for text, one in zip(axes, beyond) if one)
            message = f"The box '{box.name}' reaches beyond the image along {along} and was cut at its border."
            if np.prod((stop - first) / (high - low)) < 1 / 3:
                message += " Most of it lies outside."
            messages.append(message)
        crop = tuple(slice(int(a), int(b)) for a, b in zip(first[::-1], stop[::-1]))
        out = ObjectResult(box.label, box.name, crop)  # type: ignore[arg-type]
        if keep_masks:
            out.mask_kji_crop = np.zeros([c.stop - c.start for c in crop], bool)
        return out

    def keep_agreement(self) -> None:
        """Also keep where the views of a vote agree."""
        self.agreement_kji = np.zeros(self.labels_kji.shape, np.uint8)

    def _writer(self, box: Box, view: View, out: ObjectResult) -> Callable[[SliceMask], None]:
        x_axis, y_axis = view.in_plane
        starts = [part.start for part in out.crop[::-1]]  # ijk

        def emit(found: SliceMask) -> None:
            with self._lock:
                paint(found)

        def paint(found: SliceMask) -> None:
            if found.agreement is not None and self.agreement_kji is not None:
                region = view.slice_of(self.agreement_kji, found.index)
                x0, y0, x1, y1 = found.pixels
                np.maximum(region[y0:y1, x0:x1], found.agreement, out=region[y0:y1, x0:x1])
            extent = extent_of(found.mask)
            if extent is None:
                return
            # Only the part with the object: looking up sizes for a whole rectangle took a third of a long run's time.
            u0, v0, u1, v1 = (int(np.ceil(edge)) for edge in extent)
            mask = found.mask[v0:v1, u0:u1]
            x, y = found.pixels[0] + u0, found.pixels[1] + v0
            area = int(np.count_nonzero(mask))
            out.slices += 1
            out.voxels += area
            self._certain[box.label].append(found.confidence * area)
            region = view.slice_of(self.labels_kji, found.index)[y : y + v1 - v0, x : x + u1 - u0]
            free = mask
            if region.any():  # looking up sizes costs ten times as much as painting
                sizes, mine = self._size_of[region], self._size_of[box.label]
                free = mask & ((sizes > mine) | ((sizes == mine) & (region <= box.label)))
            region[free] = box.label
            if out.mask_kji_crop is not None:
                own = view.slice_of(out.mask_kji_crop, found.index - starts[view.axis])
                x, y = x - starts[x_axis], y - starts[y_axis]
                own[y : y + v1 - v0, x : x + u1 - u0] = mask

        return emit

    def ticker(self, progress: Optional[Progress], cancelled: Optional[Cancelled]) -> Callable[[int], bool]:
        """What a strategy calls after every slice; True means stop."""

        def tick(count: int) -> bool:
            self.done += count
            if progress:
                progress(self.done, self.total)
            return bool(cancelled and cancelled())

        return tick

    def explain_empty(self, groups: Mapping[Tuple[View, Frame], Sequence[Item]]) -> None:
        """Say of boxes too thin for the network's pixels why nothing was found in them."""
        empty = {out.label for out in self.objects if not out.slices}
        for (_, frame), group in groups.items():
            for item in group:
                u0, v0, u1, v1 = frame.to_network(item.rectangle(item.slices[len(item.slices) // 2]))
                thin = max(min(u1 - u0, v1 - v0), 0.0)
                if item.box.label in empty and thin < THIN:
                    self._messages.append(
                        f"{_NOTHING} '{item.box.name}': the network sees it {thin:.1f} pixels thin. "
                        "Use the frame 'roi', or split a long box."
                    )

    def forget(self) -> None:
        """Let go of the arrays: strategies call back into the run, the run knows their items, and Python finds circles late."""
        self.items, self.labels_kji, self.agreement_kji = [], np.zeros((0, 0, 0), np.uint8), None

    def finish(self) -> None:
        """Counts and confidences of all objects, once nothing is painted any more."""
        for out in self.objects:
            own = out.voxels
            out.confidence = math.fsum(self._certain[out.label]) / own if own else 0.0  # exact: streams change the order
            out.measure(self.labels_kji, *self._lengths)
            out.covered = own - out.voxels


def unexplained(objects: Sequence[ObjectResult], messages: Sequence[str]) -> List[ObjectResult]:
    """Objects of which nothing was found, of which no error and no message says so, and that no smaller box covers."""
    empty = [one for one in objects if not (one.voxels or one.covered or one.error)]
    return [one for one in empty if not any(f"{_NOTHING} '{one.name}'" in message for message in messages)]


def repaint(labels_kji: np.ndarray, objects: Sequence[ObjectResult], boxes: Sequence[Box], volume: Volume) -> None:
    """Labels and counts anew from the objects' own masks (kept), smaller boxes on top.

    Args:
        labels_kji: of the run; overwritten.
        objects: with their masks.
        boxes: as many, in the same order.
        volume: the image.
    """
    labels_kji[...] = 0
    pairs = sorted(zip(objects, boxes), key=lambda pair: (-pair[1].volume_voxels, pair[0].label))
    for found, _ in pairs:
        if found.mask_kji_crop is not None and not found.error:
            labels_kji[found.crop][found.mask_kji_crop] = found.label
    for found in objects:
        if found.mask_kji_crop is None or found.error:
            continue
        found.measure(labels_kji, volume.ijk_to_ras, volume.measured)
        found.covered = int(np.count_nonzero(found.mask_kji_crop)) - found.voxels
