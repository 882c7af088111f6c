"""A run's boxes on their way into one label array."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Callable, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from .errors import QMedSAMError
from .frames import Frame
from .geometry import Box, View, Volume, extent_of
from .strategies import Item, SliceMask
from .strategies.voting import LEAST_SLICES

#: ``progress(done, total)`` in box-slices; ``cancelled()`` is asked after every slice.
Progress = Callable[[int, int], None]
Cancelled = Callable[[], bool]

#: Network pixels below which a long object is lost: strips of 3000 px were found from 2.6 (``slice``) and 5.3 (``roi``).
THIN = 4


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
    """

    label: int
    name: str
    crop: Tuple[slice, slice, slice]
    voxels: int = 0
    volume_ml: float = 0.0
    covered: int = 0
    confidence: float = 0.0
    slices: int = 0
    mask_kji_crop: Optional[np.ndarray] = None


def thinnest(box: Box, volume: Volume) -> Tuple[int, int]:
    """The axis along which a box is on the fewest slices (k before j before i), and on how many."""
    counts = [len(box.slices(axis, size)) for axis, size in enumerate(volume.shape_ijk)]
    axis = min((2, 1, 0), key=counts.__getitem__)
    return axis, counts[axis]


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
    """Boxes on their way into one label array."""

    def __init__(self, volume: Volume, boxes: List[Box], keep_masks: bool, messages: List[str], agreement: bool) -> None:
        self.volume, self._messages = volume, messages
        top = max(box.label for box in boxes)
        self.labels_kji = np.zeros(volume.array_kji.shape[:3], np.uint8 if top <= 255 else np.uint16)
        self.agreement_kji = np.zeros(self.labels_kji.shape, np.uint8) if agreement else None
        # Smaller boxes lie on top (a lesion drawn inside an organ), whatever the order of drawing and of computing.
        self._size_of = np.full(top + 1, np.inf)
        for box in boxes:
            self._size_of[box.label] = box.volume_voxels
        self.objects = [self._object(box, keep_masks, messages) for box in boxes]
        self.items = []
        for box, out in zip(boxes, self.objects):
            # A box drawn on a coronal or sagittal slice or two is segmented there: from the side it is a line.
            axis, count = thinnest(box, volume)
            view = View.of(volume, axis if count < LEAST_SLICES else 2)
            self.items.append(Item(box, view, self._writer(box, view, out)))
        self._voxel_ml = abs(np.linalg.det(volume.ijk_to_ras[:3, :3])) / 1000
        self.total = self.done = 0

    def _object(self, box: Box, keep_masks: bool, messages: List[str]) -> ObjectResult:
        corners, shape = box.corners_ijk, np.array(self.volume.shape_ijk)
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

    def _writer(self, box: Box, view: View, out: ObjectResult) -> Callable[[SliceMask], None]:
        x_axis, y_axis = view.in_plane
        starts = [part.start for part in out.crop[::-1]]  # ijk

        def emit(found: SliceMask) -> None:
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
            out.confidence += found.confidence * area
            region = view.slice_of(self.labels_kji, found.index)[y : y + v1 - v0, x : x + u1 - u0]
            free = mask
            if region.any():  # looking up sizes costs ten times as much as painting
                free = mask & (self._size_of[region] >= self._size_of[box.label])
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
                        f"Nothing was found in the box '{item.box.name}': the network sees it {thin:.1f} pixels thin. "
                        "Use the frame 'roi', or split a long box."
                    )

    def finish(self) -> None:
        """Counts and confidences of all objects, once nothing is painted any more."""
        for out in self.objects:
            own = out.voxels
            out.confidence = out.confidence / own if own else 0.0
            # slice by slice: comparing a whole crop would add a byte per voxel to the peak
            out.voxels = sum(int(np.count_nonzero(plane == out.label)) for plane in self.labels_kji[out.crop])
            out.covered = own - out.voxels
            out.volume_ml = out.voxels * self._voxel_ml
