"""The ``.npz`` files of the challenge "Segment Anything in Medical Images on Laptop" (CVPR 2024)."""

from __future__ import annotations

import math
import re
import zipfile
from pathlib import Path
from typing import Any, Dict, Sequence, Tuple

import numpy as np
from numpy.lib import format as npy

from ..errors import QMedSAMError
from ..geometry import Volume
from .header import check_fits_memory, check_sizes, shown
from .paths import name_of
from .pickled import plain_pickle
from .volumes import LPS_TO_RAS, grey_or_rgb, modality_of

_MOST_PICKLED = 16 << 20


def read_arrays(path: Path, keys: Sequence[str], pickled: Sequence[str] = ()) -> Dict[str, Any]:
    """Those of ``keys`` that an ``.npz`` holds; the first one is required. Pickled objects are not loaded.

    Args:
        path: of the file.
        keys: of arrays.
        pickled: keys whose value may be a dictionary or list as numpy pickles them; it is read without running any code.

    Raises:
        QMedSAMError: foreign or damaged file, one that unpacks to more than the memory holds, or no such key.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {info.filename: info.file_size for info in archive.infolist()}
            names = [name[: -len(".npy")] for name in sizes if name.endswith(".npy")]
            wanted = [key for key in keys if key in names]
            unpacked = sum(sizes[f"{key}.npy"] for key in wanted)
            check_sizes(path, unpacked, path.stat().st_size)
            check_fits_memory(path, unpacked)
            arrays = {key: _array(archive, key, key in pickled) for key in wanted}
    except QMedSAMError:
        raise
    except Exception as error:  # a damaged header brings out anything, from zlib.error to tokenize.TokenError
        raise QMedSAMError(f"'{path.name}' could not be read as an .npz file.", "Copy or export it again.") from error
    if keys[0] not in arrays:
        raise QMedSAMError(
            f"'{path.name}' has no array '{keys[0]}' (it has {shown(', '.join(names)) or 'none'}).",
            "Give a file in the challenge's format.",
        )
    return arrays


def array_header(archive: zipfile.ZipFile, key: str) -> Tuple[Tuple[int, ...], np.dtype]:
    """Shape and type of an array, without its values.

    Raises:
        ValueError, OSError and others: damaged in one of many ways.
    """
    with archive.open(f"{key}.npy") as stream:
        version = npy.read_magic(stream)
        shape, _, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(stream)
    return tuple(int(n) for n in shape), dtype


def _array(archive: zipfile.ZipFile, key: str, pickled: bool) -> Any:
    """An array, made no larger than its member is."""
    shape, dtype = array_header(archive, key)
    info = archive.getinfo(f"{key}.npy")
    if dtype.hasobject and pickled:
        with archive.open(info) as stream:
            npy.read_magic(stream)
            stream.seek(0)
            return plain_pickle(stream.read(_MOST_PICKLED + 1))
    if math.prod(shape) * dtype.itemsize > info.file_size:
        raise ValueError("shorter than its header says")
    with archive.open(info) as stream:
        return npy.read_array(stream, allow_pickle=False)


def read_challenge_volume(path: Path) -> Volume:
    """An image of the challenge.

    Args:
        path: ``.npz`` with ``imgs`` of ``(j, i)``, ``(j, i, 3)``, ``(k, j, i)`` or ``(k, j, i, 3)``, and optionally
            ``spacing`` (mm, x y z), ``direction`` (3 x 3 or 9 numbers, row by row) and ``origin`` (mm), all LPS.

    Raises:
        QMedSAMError: foreign or damaged file, or arrays of other shapes.
    """
    arrays = read_arrays(path, ("imgs", "spacing", "direction", "origin"))
    images = arrays["imgs"]
    if images.dtype.kind not in "biuf":
        raise QMedSAMError(f"'imgs' in '{path.name}' are no numbers.", "One 2D or 3D image is needed.")
    if images.ndim not in (2, 3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        raise QMedSAMError(f"'imgs' in '{path.name}' has the shape {images.shape}.", "One 2D or 3D image is needed.")
    if images.ndim == 2 or (images.ndim == 3 and images.shape[2] == 3):
        images = images[None]
    if images.ndim == 4:
        images = grey_or_rgb(images)
    spacing = _numbers(arrays, "spacing", np.ones(3), path)
    direction = _numbers(arrays, "direction", np.eye(3), path).reshape(3, 3)
    to_lps = np.eye(4)
    to_lps[:3, :3] = direction * spacing
    to_lps[:3, 3] = _numbers(arrays, "origin", np.zeros(3), path)
    measured = "spacing" in arrays
    notes = () if measured or len(images) == 1 else (f"'{path.name}' tells no voxel size: sizes are given in voxels.",)
    return Volume(images, LPS_TO_RAS @ to_lps, _modality_in(name_of(path)), name_of(path), notes=notes, measured=measured)


def _numbers(arrays: Dict[str, np.ndarray], key: str, default: np.ndarray, path: Path) -> np.ndarray:
    values = arrays.get(key, default)
    if values.size != default.size or values.dtype.kind not in "iuf":
        raise QMedSAMError(f"'{key}' in '{path.name}' is not {default.size} numbers.", "Correct or remove it.")
    return values.astype(float).ravel()


def _modality_in(name: str) -> str:
    """``3DBox_CT_0566`` and ``CT_abc`` are CT: the first token that is a modality."""
    return next((known for known in map(modality_of, re.split(r"[_\s.]+", name)) if known), "")
