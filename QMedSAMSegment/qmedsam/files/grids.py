"""What every reader and writer needs of a grid: LPS and RAS, SimpleITK's images, colors, and the time points asked for."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np

from ..errors import QMedSAMError
from ..intensity import MODALITIES

#: SimpleITK and most files are LPS; Slicer and this engine are RAS. Its own inverse.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def ijk_to_ras_of(image: Any) -> np.ndarray:
    """``4 x 4`` matrix of a SimpleITK image, in mm (2D images lie in the plane k = 0; of 4D the first three axes count)."""
    dimension = image.GetDimension()
    space = min(dimension, 3)
    matrix = np.eye(4)
    direction = np.array(image.GetDirection()).reshape(dimension, dimension)
    matrix[:space, :space] = (direction * np.array(image.GetSpacing()))[:space, :space]
    matrix[:space, 3] = image.GetOrigin()[:space]
    return LPS_TO_RAS @ matrix


def image_of(array_kji: np.ndarray, ijk_to_ras: np.ndarray) -> Any:
    """The way back: a 3D SimpleITK image with the geometry of a volume.

    Args:
        array_kji: ``(k, j, i)`` of a type that SimpleITK knows.
        ijk_to_ras: ``4 x 4``; left-handed and sheared grids are kept.
    """
    import SimpleITK as sitk

    image = sitk.GetImageFromArray(array_kji)
    to_lps = LPS_TO_RAS @ ijk_to_ras
    spacing = np.linalg.norm(to_lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((to_lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(to_lps[:3, 3].tolist())
    return image


def grey_or_rgb(array: np.ndarray) -> np.ndarray:
    """``(k, j, i)`` of a grey picture saved in colour, else ``(k, j, i, 3)`` of at most 8 bits, from 3 or 4 channels."""
    red, green, blue = (array[..., c] for c in range(3))
    if np.array_equal(red, green) and np.array_equal(red, blue):
        return np.ascontiguousarray(red)
    colors = np.ascontiguousarray(array[..., :3])
    return (colors // 257).astype(np.uint8) if colors.dtype == np.uint16 else colors


def modality_of(name: str) -> str:
    """The manifest's name of a modality, ``""`` for an unknown one."""
    return MODALITIES.get(name.strip().upper(), "")


def chosen_frames(name: str, frames: int, frame_index: Optional[int], what: str = "time points") -> range:
    """The time points that are asked for.

    Args:
        name: of the image.
        frames: that it has.
        frame_index: from 0; -1 for all; None for the only one.
        what: the frames are, for the message.

    Raises:
        QMedSAMError: there are several, and none was chosen; or there is none of that number.
    """
    if frame_index == -1:
        return range(frames)
    if frame_index is None and frames > 1:
        raise QMedSAMError(
            f"'{name}' holds {frames} {what}.", f"Choose one with --frame-index 0 to {frames - 1}, or take 'all' of them."
        )
    if not 0 <= (frame_index or 0) < frames:
        raise QMedSAMError(
            f"'{name}' has no time point {frame_index}.", f"Choose 0 to {frames - 1}." if frames > 1 else "It has one, number 0."
        )
    return range(frame_index or 0, (frame_index or 0) + 1)
