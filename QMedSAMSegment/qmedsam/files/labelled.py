"""A mask on the grid of its image: the one way in for whatever scores, trains or prompts with labels.

Files tell where their voxels lie; they are compared there, not by their shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from ..errors import QMedSAMError
from ..geometry import Volume
from .grey import values_of
from .orientation import orientation_of, upright
from .paths import PathLike
from .segments import Layers, read_layers
from .volumes import read_volume

#: Files that say nothing of where they lie: their pixels are the image's, one by one.
PLACELESS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".npz")
#: Voxels by which the corners of two lattices may differ and still be the same (NIfTI keeps 24 bits of every number).
_SAME = 0.05
#: Shares of a mask's voxels beyond the image that are told, and that are refused.
_TOLD, _LOST = 0.001, 0.5
#: mm by which a mask of the image's own shape may lie beside it without a word.
_BESIDE = 1.0


@dataclass(frozen=True)
class LabelMap:
    """Labels on the grid of an image.

    Attributes:
        layers: ``(k, j, i)`` each, uint8 or uint16; segments that overlap lie in different ones. No value is in two layers.
        names: of labels, as far as the file gives them.
        notes: sentences on what was decided or is missing.
    """

    layers: Tuple[np.ndarray, ...]
    names: Dict[int, str]
    notes: Tuple[str, ...] = ()

    def __len__(self) -> int:
        """Slices, as of an array ``(k, j, i)``."""
        return len(self.layers[0])

    @property
    def shape(self) -> Tuple[int, int, int]:
        """Slices, rows and columns."""
        return self.layers[0].shape


def read_label_map(
    path: PathLike,
    volume: Volume,
    source: Optional[PathLike] = None,
    read: Callable[[PathLike], Volume] = read_volume,
) -> LabelMap:
    """The labels of a file on an image's grid, placed by world coordinates.

    Args:
        path: label map, ``.seg.nrrd`` (cropped, in layers), DICOM SEG or RTSTRUCT (or the folder with one of them), picture, or
            a challenge ``.npz`` with ``segs``.
        volume: the image.
        source: its file: a picture has no place, so that masks of pictures are taken pixel by pixel.
        read: as for :func:`~.segments.read_segments`.

    Raises:
        QMedSAMError: missing, damaged or foreign file, values that are no labels, another shape where nothing says where the
            mask lies, or a mask that does not meet the image.
    """
    path = Path(path)
    found = read_layers(path, volume, read)
    placeless = path.suffix.lower() in PLACELESS or (source is not None and Path(source).suffix.lower() in PLACELESS)
    notes = list(found.notes)
    arrays = found.voxels.transpose(0, 3, 2, 1)
    if volume.orientation != 1 and path.suffix.lower() in PLACELESS:  # masks are of the photograph's own pixels
        turned = [upright(Volume(layer), volume.orientation).array_kji for layer in arrays]
        arrays = np.stack(turned) if orientation_of(path) == 1 else arrays
    if placeless or found.ijk_to_ras is None:
        if arrays.shape[1:] != volume.array_kji.shape[:3]:
            raise _shapes_differ(path, arrays[0], volume)
    else:
        arrays = np.stack(_placed(arrays, found.ijk_to_ras, path, volume, notes))
    return _renumbered(arrays, found, path, notes)


def _renumbered(arrays: np.ndarray, found: Layers, path: Path, notes: List[str]) -> LabelMap:
    """Values that are in one layer only, with their names; what a file names and does not draw is said."""
    names: Dict[int, str] = {}
    segments = found.segments
    values = [int(s.get("LabelValue", 0)) for s in segments]
    if len(set(values)) < len(values):  # Slicer starts every layer at 1
        layers = [np.zeros(layer.shape, np.uint8 if len(segments) < 256 else np.uint16) for layer in arrays]
        for n, segment in enumerate(segments, start=1):
            layer = int(segment.get("Layer", 0))
            layers[layer][arrays[layer] == int(segment.get("LabelValue", 0))] = n
            names[n] = segment.get("Name", "")
    else:
        layers = list(arrays)
        names = {value: s.get("Name", "") for value, s in zip(values, segments)}
    drawn = {int(value) for layer in layers for value in np.unique(layer)}
    empty = [name or str(value) for value, name in names.items() if value not in drawn]
    if empty:
        notes.append(f"'{path.name}' has no voxel on the image of: {', '.join(empty)}.")
    return LabelMap(tuple(layers), {value: name for value, name in names.items() if name}, tuple(notes))


def _placed(arrays: np.ndarray, ijk_to_ras: np.ndarray, path: Path, volume: Volume, notes: List[str]) -> List[np.ndarray]:
    """Layers ``(k, j, i)`` on the volume's grid: copied where the two lattices are one, else by the nearest voxel."""
    to_mask = np.linalg.inv(ijk_to_ras) @ volume.ijk_to_ras
    shape = np.array(volume.array_kji.shape[:3])
    steps = np.round(to_mask)
    corners = np.vstack([(shape[::-1] - 1) * corner for corner in np.ndindex(2, 2, 2)])
    off = np.abs((to_mask - steps)[:3, :3] @ corners.T + (to_mask - steps)[:3, 3:]).max()
    lattice = off <= _SAME and (np.abs(steps[:3, :3]).sum(axis=0) == 1).all() and (np.abs(steps[:3, :3]).sum(axis=1) == 1).all()
    place = _copied if lattice else _nearest
    placed = [place(layer, steps if lattice else to_mask, tuple(shape)) for layer in arrays]
    before, after = (sum(int(np.count_nonzero(a)) for a in stack) for stack in (arrays, placed))
    ratio = abs(np.linalg.det(volume.ijk_to_ras[:3, :3]) / np.linalg.det(ijk_to_ras[:3, :3]))
    lost = 1 - after * ratio / before if before else 0.0
    middles = [
        (matrix @ np.append((np.array(size[::-1]) - 1) / 2, 1))[:3]
        for matrix, size in ((ijk_to_ras, arrays.shape[1:]), (volume.ijk_to_ras, shape))
    ]
    distance = float(np.linalg.norm(middles[0] - middles[1]))
    if before and (not after or lost > _LOST):
        raise QMedSAMError(
            f"The mask '{path.name}' does not lie on its image: {max(lost, 0):.0%} of its voxels are beyond it"
            f" (their centres are {distance:.0f} mm apart).",
            "Check that the two belong together and that both have the same place in the patient.",
        )
    if not lattice:
        notes.append(f"'{path.name}' lies on another grid than its image and was placed by its nearest voxels.")
    elif arrays.shape[1:] == tuple(shape) and distance > _BESIDE:
        notes.append(f"'{path.name}' lies {distance:.1f} mm beside its image, as its header says; it was placed there.")
    if lost > (_TOLD if lattice else 0.05):
        notes.append(f"{lost:.1%} of the voxels of '{path.name}' lie beyond the image.")
    return placed


def _copied(layer: np.ndarray, to_mask: np.ndarray, shape_kji: Sequence[int]) -> np.ndarray:
    """``to_mask`` is a permutation of axes with signs, and a shift in whole voxels."""
    axes = [int(np.abs(to_mask[:3, a]).argmax()) for a in range(3)]  # the mask's axis (ijk) along each of the image's
    turned = layer.transpose([2 - axes[2 - n] for n in range(3)])
    out = np.zeros(shape_kji, layer.dtype)
    source, target = [], []
    for n in range(3):  # kji
        a = 2 - n
        sign, shift, count = int(to_mask[axes[a], a]), int(to_mask[axes[a], 3]), turned.shape[n]
        # image index v is mask index sign * v + shift
        first, last = sorted(((0 - shift) * sign, (count - 1 - shift) * sign))
        first, last = max(first, 0), min(last, shape_kji[n] - 1)
        if last < first:
            return out
        start, stop = sign * first + shift, sign * last + shift
        target.append(slice(first, last + 1))
        source.append(slice(start, stop + 1) if sign > 0 else slice(start, stop - 1 if stop else None, -1))
    out[tuple(target)] = turned[tuple(source)]
    return out


def _nearest(layer: np.ndarray, to_mask: np.ndarray, shape_kji: Sequence[int]) -> np.ndarray:
    from scipy.ndimage import affine_transform

    flipped = to_mask[:3, :3][::-1, ::-1]  # kji
    return affine_transform(layer, flipped, to_mask[:3, 3][::-1], tuple(shape_kji), order=0, mode="constant", cval=0)


def _shapes_differ(path: Path, mask: np.ndarray, volume: Volume) -> QMedSAMError:
    return QMedSAMError(
        f"The mask '{path.name}' ({values_of(mask)}) and its image ({values_of(volume.array_kji)}) differ in shape, and nothing "
        "says where the mask lies.",
        "Check that the two belong together.",
    )
