"""Whether the values of a file are labels: what a lossy or smoothed mask, a probability map and an image look like."""

from __future__ import annotations

from typing import Tuple

import numpy as np

from ..errors import QMedSAMError

#: A mask of 0 and one bright value: at least this bright; its soft border lies between this dark and this share of it, this near
#: to what is bright (pixels; JPEG works in blocks of 8), and is at most so many times as large.
_BRIGHT, _FULL, _DARK, _NEAR, _BORDER = 200, 0.9, 8, 8, 2
#: So many different values are an image's where they have no inside; no label map has so many.
_SEVERAL, _MOST = 50, 1000
#: Share of voxels with only their own value around them on the slice: labels have an inside, soft borders and noise hardly any.
_INSIDE_BORDER, _INSIDE_NOISE, _INSIDE_IMAGE = 0.3, 0.6, 0.05


def as_labels(array_kji: np.ndarray, name: str, image: str) -> Tuple[np.ndarray, str]:
    """A file's values as labels.

    Args:
        array_kji: ``(k, j, i)`` or ``(k, j, i, 3)``.
        name: of the file.
        image: what is known of the image that the mask is of, for messages (``512 x 512, 214 values``); or ``""``.

    Returns:
        uint8 or uint16, and a note where something was decided (``""``: the values are labels as they are).

    Raises:
        QMedSAMError: they are fractions, colours, negative, above 65535, or those of an image.
    """
    beside = f" (the image: {image})" if image else ""
    size = " x ".join(str(n) for n in array_kji.shape[2::-1])
    if array_kji.ndim != 3:
        raise QMedSAMError(
            f"'{name}' is a colour picture of {size}{beside}, not a label map.",
            "Give a mask with one whole number per pixel. Are image and mask swapped?",
        )
    if array_kji.dtype.kind not in "biuf":
        raise QMedSAMError(f"'{name}' is not a label map.", "Its voxels must be whole numbers, one per voxel.")
    if array_kji.dtype.kind == "f" and not _whole(array_kji):
        values = np.unique(_sample(array_kji))
        kind = "a probability map" if values[0] >= 0 and values[-1] <= 1 else "an image"
        raise QMedSAMError(
            f"'{name}' is not a label map: it holds fractions ({size}, {_count(values)}){beside}; it looks like {kind}.",
            "Give a mask with one whole number per voxel (a probability map: above a threshold). Are image and mask swapped?",
        )
    lowest, highest = (float(v) for v in (np.nanmin(array_kji), np.nanmax(array_kji)))
    if lowest < 0 or highest > 65535:
        raise QMedSAMError(
            f"'{name}' is not a label map: its values go from {lowest:g} to {highest:g} ({size}){beside}.",
            "Labels are 0 to 65535. Are image and mask swapped?",
        )
    kind_of_label = np.uint8 if highest <= 255 else np.uint16
    labels = (np.nan_to_num(array_kji) if array_kji.dtype.kind == "f" else array_kji).astype(kind_of_label)
    # slice by slice: sorting all voxels takes minutes, and counting them at once eight bytes for each
    counts = sum(np.bincount(plane.reshape(-1), minlength=int(highest) + 1) for plane in labels)
    values = np.flatnonzero(counts)
    if _soft(labels, int(highest)):
        limit = (int(highest) + 1) // 2
        note = f"'{name}' is grey ({_count(values)}): taken as one object, where it is {limit} or more."
        return np.where(labels >= limit, int(highest), 0).astype(labels.dtype), note
    if len(values) > _MOST or (len(values) > _SEVERAL and _inside(labels, labels > 0) < _INSIDE_IMAGE):
        raise QMedSAMError(
            f"'{name}' is not a label map: {size}, {_count(values)}{beside}.",
            "Give a mask with one whole number per object. Are image and mask swapped?",
        )
    return labels, ""


def values_of(array_kji: np.ndarray) -> str:
    """``512 x 512 x 30, 1187 values``: shape and count of an image's values (of a million voxels at most)."""
    colours = ", colours" if array_kji.ndim == 4 else ""
    return " x ".join(str(n) for n in array_kji.shape[2::-1]) + f", {_count(np.unique(_sample(array_kji)))}{colours}"


def _sample(array_kji: np.ndarray) -> np.ndarray:
    return array_kji.reshape(-1)[:: (array_kji.size // 1_000_000) | 1]


def _whole(array_kji: np.ndarray) -> bool:
    """Whether there are whole numbers alone; NaN, which some programs write around an object, is none."""
    return any(np.isfinite(p).any() for p in array_kji) and all(bool((np.isnan(p) | (p == np.round(p))).all()) for p in array_kji)


def _count(values: np.ndarray) -> str:
    return f"{len(values)} value{'s' * (len(values) != 1)}"


def _soft(labels: np.ndarray, top: int) -> bool:
    """Whether a mask of 0 and one bright value has something in between: smoothed, scaled, or saved as JPEG."""
    from scipy.ndimage import maximum_filter

    if not _BRIGHT <= top <= 255:
        return False
    full, dark = labels >= _FULL * top, labels <= _DARK
    soft = ~full & ~dark
    border = int(np.count_nonzero(soft))
    # JPEG leaves a background of 1 or 2, and noise around it; a label in the dark would have an inside.
    noise = dark & (labels != np.bincount(labels[dark], minlength=1).argmax())
    noisy = int(np.count_nonzero(noise))
    if not border + noisy or border > _BORDER * np.count_nonzero(full):
        return False
    if noisy and _inside(labels, noise) > _INSIDE_NOISE:
        return False
    near = maximum_filter(full, size=(1, 2 * _NEAR + 1, 2 * _NEAR + 1))
    return bool(np.count_nonzero(soft & near) >= 0.95 * border) and (not border or bool(_inside(labels, soft) < _INSIDE_BORDER))


def _inside(labels: np.ndarray, where: np.ndarray) -> float:
    """Share of the voxels ``where`` whose eight neighbours on the slice have the same value."""
    from scipy.ndimage import maximum_filter, minimum_filter

    size = (1, 3, 3)
    same = maximum_filter(labels, size=size) == minimum_filter(labels, size=size)
    total = int(np.count_nonzero(where))
    return int(np.count_nonzero(same & where)) / total if total else 1.0
