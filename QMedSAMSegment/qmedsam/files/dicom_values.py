"""Stored pixels to grey values: rescaled, or through the Modality LUT, in the smallest type that holds all slices."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import numpy as np

from .dicom_frames import Frame
from .dicom_header import items_of, value_of
from .dicom_pixels import Pixels
from .grids import grey_or_rgb


def voxels_of(frames: Tuple[Frame, ...], pixels: Dict[Path, Pixels], as_float: bool) -> np.ndarray:
    """``(k, j, i)`` of rescaled values, or colours ``(k, j, i, 3)``."""
    first = pixels[frames[0].file.path]
    if first.is_rgb:
        return grey_or_rgb(np.stack([pixels[frame.file.path].read([frame.number])[0] for frame in frames]))
    tables = {path: _table(pixels[path]) for path in {frame.file.path for frame in frames}}
    if not as_float and _same_whole_scale(frames, pixels, tables):
        stored = np.empty((len(frames), first.rows, first.columns), first.dtype)
        for k, frame in enumerate(frames):
            stored[k] = pixels[frame.file.path].read([frame.number])[0]
        return _rescaled(stored, *frames[0].scale)
    dtype = _type_of(frames, pixels, tables, as_float)
    out = np.empty((len(frames), first.rows, first.columns), dtype)
    for k, frame in enumerate(frames):
        each = pixels[frame.file.path]
        values = each.read([frame.number])[0]
        slope, intercept = frame.scale
        table = tables[frame.file.path]
        if table is not None:
            start, entries = table
            out[k] = entries[np.clip(values.astype(np.int64) - start, 0, len(entries) - 1)]
        elif (slope, intercept) == (1.0, 0.0):
            out[k] = values
        elif out.dtype.kind in "iu":
            out[k] = values.astype(np.int64) * int(slope) + int(intercept)
        else:
            out[k] = values.astype(np.float64) * slope + intercept
    return out


def _same_whole_scale(
    frames: Tuple[Frame, ...], pixels: Dict[Path, Pixels], tables: Dict[Path, Optional[Tuple[int, np.ndarray]]]
) -> bool:
    """Whether all slices hold whole numbers of one type, under one scale of whole numbers."""
    kinds = {(frame.scale, pixels[frame.file.path].dtype) for frame in frames}
    (slope, intercept), dtype = next(iter(kinds))
    whole = slope == int(slope) and intercept == int(intercept) and max(abs(slope), abs(intercept)) < 2**31
    return len(kinds) == 1 and whole and dtype.kind in "iu" and not any(tables.values())


def _rescaled(stored: np.ndarray, slope: float, intercept: float) -> np.ndarray:
    """Whole numbers in the smallest type that holds those that are there; 16-bit CT stays 16-bit."""
    if (slope, intercept) == (1.0, 0.0):
        return stored
    ends = sorted(int(value) * int(slope) + int(intercept) for value in (stored.min(), stored.max()))
    kinds = (stored.dtype, np.int16, np.uint16, np.int32, np.uint32)
    dtype = next((k for k in kinds if np.iinfo(k).min <= ends[0] and ends[1] <= np.iinfo(k).max), None)
    if dtype is None:
        return stored.astype(np.float64) * slope + intercept
    if dtype == stored.dtype and slope == 1:
        stored += int(intercept)
        return stored
    out = np.empty(stored.shape, dtype)
    for k, values in enumerate(stored):  # slice by slice: the products are wider
        out[k] = values.astype(np.int64) * int(slope) + int(intercept)
    return out


def _table(pixels: Pixels) -> Optional[Tuple[int, np.ndarray]]:
    """The Modality LUT: first value that it maps, and what the values become."""
    for item in items_of(pixels.file.dataset, "ModalityLUTSequence")[:1]:
        count, first, bits = value_of(item, "LUTDescriptor", lambda v: [int(n) for n in v], [0, 0, 0])[:3]
        stored: Any = value_of(item, "LUTData", lambda v: v, b"")
        width = 2 if bits > 8 else 1
        packed = isinstance(stored, bytes)
        data = np.frombuffer(stored[: len(stored) // width * width], f"<u{width}") if packed else np.array(stored, np.int64)
        entries = data[: count or 65536].astype(np.uint16)
        first -= 65536 if pixels.signed and first > 32767 else 0
        return (first, entries) if entries.ndim == 1 and len(entries) else None  # no table: the values stay as they are stored
    return None


def _type_of(
    frames: Tuple[Frame, ...], pixels: Dict[Path, Pixels], tables: Dict[Path, Optional[Tuple[int, np.ndarray]]], as_float: bool
) -> np.dtype:
    """A voxel type that holds the values of all slices: whole numbers where they are, of the fewest bytes."""
    if as_float:
        return np.dtype(np.float32)
    low, high = 0.0, 0.0
    unscaled = set()
    for frame in frames:
        each = pixels[frame.file.path]
        slope, intercept = frame.scale
        table = tables[frame.file.path]
        if each.floats or (table is None and (slope != int(slope) or intercept != int(intercept))):
            return np.dtype(np.float32 if not each.floats or each.bits == 32 else np.float64)
        ends = (0, 65535) if table is not None else [value * slope + intercept for value in each.range]
        low, high = min(low, *ends), max(high, *ends)
        unscaled.add(each.dtype if table is None and frame.scale == (1.0, 0.0) else None)
    if len(unscaled) == 1 and None not in unscaled:
        return unscaled.pop()  # type: ignore[return-value]
    kinds = (np.uint8, np.int16, np.uint16, np.int32, np.uint32)
    return np.dtype(next((k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max), np.float32))
