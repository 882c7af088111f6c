"""The strokes by which a segment was corrected, and its slices as they were then, in tags of the segment.

A segment's tags are part of every state that the editor's undo keeps: the list of strokes follows Ctrl+Z and Ctrl+Y by itself,
and a ``.seg.nrrd`` carries it along.
"""

from __future__ import annotations

from typing import Any, Collection, FrozenSet, List, NamedTuple, Sequence, Tuple

import numpy as np
from qmedsam.marks import Stroke

from .boxtags import SLICES_TAG, STROKES_TAG, motionSince, tagOf

#: ``(axis, index)`` of a volume's slice.
Slice = Tuple[int, int]

#: More changed slices than this share of an object's are not brush strokes: it was smoothed, moved, or computed anew.
PAINTED = 0.5
#: Weights of the voxels in a slice's checksum: below 2**23, so that the sum over a slice is exact in a double.
_PRIMES = (7_919, 104_729, 1_299_709)


def storeStrokes(segmentationNode: Any, segmentId: str, strokes: Sequence[Stroke], ijkToNode: np.ndarray) -> None:
    """Write strokes into their segment, in the segmentation's coordinates. After :func:`~QMedSAMSegmentLib.boxtags.storeInTag`.

    Each is ``sign radius normal points``, numbers in mm, with ';' between strokes: neither ':' nor '|', which separate tags in a
    ``.seg.nrrd``.

    Args:
        segmentationNode, segmentId: whose.
        strokes: in the voxels of a volume.
        ijkToNode: ``4 x 4`` from that volume's voxels into the segmentation's coordinates.
    """
    entries = []
    for stroke in strokes:
        points = stroke.points_ijk @ ijkToNode[:3, :3].T + ijkToNode[:3, 3]
        numbers = [1.0 if stroke.adds else -1.0, stroke.radius_mm, *sliceNormals(ijkToNode)[stroke.axis], *points.ravel()]
        entries.append(" ".join(f"{value:.6g}" for value in numbers))
    segment = segmentationNode.GetSegmentation().GetSegment(segmentId)
    if entries:
        segment.SetTag(STROKES_TAG, ";".join(entries))
    else:
        segment.RemoveTag(STROKES_TAG)


def strokesOf(segmentationNode: Any, segmentId: str, ijkToNode: np.ndarray) -> Tuple[Stroke, ...]:
    """The strokes of a segment in the voxels of a volume, moved by every transform that was hardened on it since.

    None where the segment has none, the tag cannot be read, or nobody can tell where they belong now.

    Args:
        segmentationNode, segmentId: whose.
        ijkToNode: ``4 x 4`` from the volume's voxels into the segmentation's coordinates.
    """
    text = tagOf(segmentationNode, segmentId, STROKES_TAG)
    if not text:
        return ()
    try:
        motion = motionSince(segmentationNode, segmentId)
        return () if motion is None else tuple(_stroke(entry, motion, ijkToNode) for entry in text.split(";"))
    except ValueError:
        return ()


def _stroke(entry: str, motion: np.ndarray, ijkToNode: np.ndarray) -> Stroke:
    numbers = np.array([float(number) for number in entry.split()])
    if len(numbers) < 8 or not np.isfinite(numbers).all():
        raise ValueError(entry)
    toIjk = np.linalg.inv(ijkToNode) @ motion
    points = numbers[5:].reshape(-1, 3) @ toIjk[:3, :3].T + toIjk[:3, 3]
    normal = np.linalg.inv(motion[:3, :3]).T @ numbers[2:5]
    axis = int(np.argmax(np.abs(sliceNormals(ijkToNode) @ normal)))
    return Stroke(points, axis, bool(numbers[0] > 0), max(float(numbers[1]), 0.0))


def sliceNormals(ijkToOther: np.ndarray) -> np.ndarray:
    """``3 x 3``: row ``n`` is the unit normal of the slices that follow each other along voxel axis ``n``."""
    rows = np.linalg.inv(ijkToOther[:3, :3])
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class Slices(NamedTuple):
    """What is known of a segment's slices since the last run.

    Attributes:
        painted: that were changed since by hand.
        kept: that no run may change: painted earlier.
    """

    painted: FrozenSet[Slice] = frozenset()
    kept: FrozenSet[Slice] = frozenset()


def storeSlices(
    segmentationNode: Any,
    segmentId: str,
    mask_kji: np.ndarray,
    ijkToNode: np.ndarray,
    kept: Collection[Slice] = (),
    first_kji: Sequence[int] = (0, 0, 0),
) -> None:
    """Write how a segment looks after a run: later, what differs was painted by hand.

    Args:
        segmentationNode, segmentId: whose.
        mask_kji: the segment in the voxels of a volume, or in a part of it that holds all of the segment.
        ijkToNode: ``4 x 4`` from that volume's voxels into the segmentation's coordinates.
        kept: slices that no run may change.
        first_kji: where the part begins.
    """
    parts = [" ".join(f"{value:.6g}" for value in ijkToNode[:3].ravel()), " ".join(f"{a} {n}" for a, n in sorted(kept))]
    for sums in _checksums(mask_kji, first_kji):
        used = np.flatnonzero(sums)
        first, stop = (used[0], used[-1] + 1) if len(used) else (0, 0)
        parts.append(" ".join([str(first), *(f"{int(value):x}" for value in sums[first:stop])]))
    segmentationNode.GetSegmentation().GetSegment(segmentId).SetTag(SLICES_TAG, ";".join(parts))


def slicesOf(segmentationNode: Any, segmentId: str, mask_kji: np.ndarray, ijkToNode: np.ndarray) -> Slices:
    """Which slices of a segment were painted by hand since its last run, and which are to be kept from before.

    Nothing is known on another grid: of another volume, or after the two were moved apart.

    Args:
        segmentationNode, segmentId: whose.
        mask_kji: the segment as it is now, in the voxels of the volume.
        ijkToNode: ``4 x 4`` from the volume's voxels into the segmentation's coordinates.
    """
    parts = tagOf(segmentationNode, segmentId, SLICES_TAG).split(";")
    try:
        if len(parts) != 5 or not np.allclose([float(n) for n in parts[0].split()], ijkToNode[:3].ravel(), rtol=1e-4, atol=1e-3):
            return Slices()
        kept = np.array([int(n) for n in parts[1].split()], int).reshape(-1, 2)
        changed: List[np.ndarray] = []
        sizes: List[int] = []
        for text, now in zip(parts[2:], _checksums(mask_kji)):
            first, *values = text.split()
            then = np.zeros(len(now))
            then[int(first) : int(first) + len(values)] = [int(value, 16) for value in values]
            changed.append(np.flatnonzero(then != now))
            sizes.append(int(np.count_nonzero(then + now)))
    except ValueError:
        return Slices()
    # A brush in a view changes one slice of it, and many across: the direction that explains it with the fewest slices.
    axis = min((2, 1, 0), key=lambda one: len(changed[one]))
    few = len(changed[axis]) <= max(PAINTED * sizes[axis], 1)
    painted = frozenset((axis, int(index)) for index in changed[axis]) if few else frozenset()
    return Slices(painted, frozenset((int(a), int(n)) for a, n in kept))


def _checksums(mask_kji: np.ndarray, first_kji: Sequence[int] = (0, 0, 0)) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A number per slice along i, j and k: 0 for an empty one, and different for different contents (almost always)."""
    bounds: List[slice] = []
    for axis in range(3):  # narrowed axis by axis: looking at all voxels once is enough
        used = np.flatnonzero(mask_kji[tuple(bounds)].any(axis=tuple(n for n in range(3) if n != axis)))
        bounds.append(slice(used[0], used[-1] + 1) if len(used) else slice(0, 0))
    voxels = np.nonzero(mask_kji[tuple(bounds)])
    k, j, i = (found + part.start + first for found, part, first in zip(voxels, bounds, first_kji))
    hashes = [(index + 1) * prime % 8_388_593 for index, prime in zip((i, j, k), _PRIMES)]
    sums = []
    for index, size, others in ((i, 2, (1, 2)), (j, 1, (0, 2)), (k, 0, (0, 1))):
        weights = (hashes[others[0]] * 31 + hashes[others[1]]) * 2_654_435 % 8_388_593 + 1
        sums.append(np.bincount(index, weights=weights, minlength=mask_kji.shape[size] + first_kji[size]))
    return sums[0], sums[1], sums[2]
