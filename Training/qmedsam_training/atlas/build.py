"""Labelled cases to an atlas: 8 bits a voxel, objects numbered, homogeneous regions beside them."""

from __future__ import annotations

from itertools import islice
from typing import Callable, Iterable, List, Optional, Tuple

import numpy as np
from qmedsam import QMedSAMError
from qmedsam.evaluation.cases import Case, components
from qmedsam.intensity import Intensity

from .store import HU_KNOTS, Packed, pack

#: Longest side of the map of regions: what is smaller than two pixels of it is no object worth a prompt.
_REGION_SIDE = 256
#: Felzenszwalb's scales of observation: small parts and large ones.
_SCALES = (60, 300)
#: Slices of a volume that get a map of regions.
_REGION_SLICES = 6
#: Most rows and columns of a WebP.
_LARGEST_WEBP = 16383
#: Most objects of a case: what their numbers hold.
_MOST_OBJECTS = np.iinfo(np.int16).max
#: Shares of the picture that a region worth a prompt covers.
_LEAST_REGION, _LARGEST_REGION = 0.002, 0.35


def packed(case: Case, regions: bool = True) -> Packed:
    """A case for the file.

    Raises:
        QMedSAMError: it cannot be read, it holds no object, or it is a volume in colours.
    """
    volume, labels = case.load()
    is_3d = case.is_3d and len(labels) > 1
    if is_3d and volume.is_rgb:
        raise QMedSAMError(f"'{case.case_id}' is a volume in colours.", "Leave it out: channels are colours or slices.")
    array = volume.array_kji
    numbered = np.zeros(array.shape[:3], np.int16)
    count = 0
    for _, mask, crop in islice(components(labels, is_3d), _MOST_OBJECTS):
        if not numbered[crop][mask].any():  # of objects that overlap the first one alone would be whole
            count += 1
            numbered[crop][mask] = count
    if not count:
        raise QMedSAMError(f"'{case.case_id}' holds no object.", "Leave it out.")
    hounsfield = volume.modality == "CT" and is_3d and bool(array.min() < -100)
    units, codes = zip(*HU_KNOTS)
    intensity = Intensity.of(volume, volume.modality)

    def coded(plane: np.ndarray) -> np.ndarray:
        grey = np.interp(plane, units, codes) if hounsfield else intensity.apply(plane) * 255
        return grey.round().astype(np.uint8)

    values = np.stack([coded(plane) for plane in array])  # by slices: floats take eight times the room
    if not is_3d:
        values = np.moveaxis(values[0], -1, 0) if volume.is_rgb else values[0]
        numbered = numbered[0]
    i, j, k = (float(s) for s in volume.spacing_mm) if is_3d else (1.0, 1.0, 1.0)
    maps = _regions(values, is_3d) if regions else []
    return Packed(
        case.group,
        f"{case.source}/{case.patient_id}",
        pack(values, _coding(values, is_3d)),
        pack(numbered),
        [(k, pack(found)) for k, found in maps],
        (i, j, k),
        hounsfield,
        is_3d,
    )


def _coding(values: np.ndarray, is_3d: bool) -> str:
    """Small volumes lose more by WebP than they cost; its pictures have at most 16,383 rows."""
    rows = values.shape[0] * values.shape[1] if is_3d else values.shape[-2]
    if max(rows, values.shape[-1]) > _LARGEST_WEBP:
        return "zlib"
    if not is_3d:
        return "webp"
    return "webp-slices" if values.size > 300_000 else "zlib"


def packed_cases(
    cases: Iterable[Case], regions: bool = True, told: Optional[Callable[[int, str], None]] = None
) -> Tuple[List[Packed], List[Tuple[str, str]]]:
    """Every case that can be read, and the others with the reason; ``told`` gets how many are done and the last one's name."""
    done, skipped = [], []
    for number, case in enumerate(cases, start=1):
        try:
            done.append(packed(case, regions))
        except QMedSAMError as error:
            skipped.append((case.case_id, str(error)))
        if told:
            told(number, case.case_id)
    return done, skipped


def _regions(values: np.ndarray, is_3d: bool) -> List[Tuple[int, np.ndarray]]:
    """Maps of homogeneous regions (Felzenszwalb and Huttenlocher 2004), of a picture or of some slices of a volume.

    A promptable network learns borders from them: hundreds of objects an image that nobody had to draw.
    """
    from skimage.segmentation import felzenszwalb
    from skimage.transform import resize

    found = []
    slices = np.unique(np.linspace(0, len(values) - 1, _REGION_SLICES + 2).astype(int)[1:-1]) if is_3d else [0]
    for k in slices:
        picture = values[k] if is_3d else (np.moveaxis(values, 0, -1) if values.ndim == 3 else values)
        shrink = min(_REGION_SIDE / max(picture.shape[:2]), 1.0)
        shape = tuple(max(round(n * shrink), 8) for n in picture.shape[:2])
        small = resize(picture, shape + picture.shape[2:], anti_aliasing=shrink < 1, preserve_range=True) / 255
        for scale in _SCALES:
            parts = felzenszwalb(small, scale=scale, sigma=0.8, min_size=24, channel_axis=-1 if small.ndim == 3 else None)
            areas = np.bincount(parts.ravel()) / parts.size
            wanted = np.flatnonzero((areas >= _LEAST_REGION) & (areas <= _LARGEST_REGION))
            number = np.zeros(len(areas), np.int16)
            number[wanted] = np.arange(1, len(wanted) + 1)
            if len(wanted):
                found.append((int(k), number[parts]))
    return found
