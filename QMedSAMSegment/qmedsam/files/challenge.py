"""The ``.npz`` files of the challenge "Segment Anything in Medical Images on Laptop" (CVPR 2024)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Dict, Sequence

import numpy as np

from ..errors import QMedSAMError
from ..geometry import Volume
from .paths import name_of
from .volumes import LPS_TO_RAS, grey_or_rgb, modality_of


def read_arrays(path: Path, keys: Sequence[str]) -> Dict[str, np.ndarray]:
    """Those of ``keys`` that an ``.npz`` holds; the first one is required. Pickled objects are not loaded.

    Raises:
        QMedSAMError: foreign or damaged file, or no such key.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = archive.files
            arrays = {key: archive[key] for key in keys if key in names}
    except Exception as error:  # a damaged header brings out anything, from zlib.error to tokenize.TokenError
        raise QMedSAMError(f"'{path.name}' could not be read as an .npz file.", "Copy or export it again.") from error
    if keys[0] not in arrays:
        raise QMedSAMError(
            f"'{path.name}' has no array '{keys[0]}' (it has {', '.join(names) or 'none'}).",
            "Give a file in the challenge's format.",
        )
    return arrays


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
    return Volume(images, LPS_TO_RAS @ to_lps, _modality_in(name_of(path)), name_of(path))


def _numbers(arrays: Dict[str, np.ndarray], key: str, default: np.ndarray, path: Path) -> np.ndarray:
    values = arrays.get(key, default)
    if values.size != default.size or values.dtype.kind not in "iuf":
        raise QMedSAMError(f"'{key}' in '{path.name}' is not {default.size} numbers.", "Correct or remove it.")
    return values.astype(float).ravel()


def _modality_in(name: str) -> str:
    """``3DBox_CT_0566`` and ``CT_abc`` are CT: the first token that is a modality."""
    return next((known for known in map(modality_of, re.split(r"[_\s.]+", name)) if known), "")
