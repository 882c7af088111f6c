"""Grey values and colours into the 0..1 that the network was trained on; one implementation for training and run time.

CT is windowed; everything else is clipped to the 0.5 and 99.5 percentile of its voxels above zero, as the challenge's
own preparation does; 8-bit pictures and RGB are taken as they are (they were windowed when they were saved).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

import numpy as np

from .errors import QMedSAMError
from .geometry import Volume

#: (width, level) in HU; the presets of MedSAM's preparation and of MedSAMSlicer.
CT_WINDOWS: Dict[str, Tuple[float, float]] = {
    "abdomen": (400, 40),
    "lung": (1500, -600),
    "brain": (80, 40),
    "mediastinum": (350, 50),
    "bone": (1800, 400),
}

#: Names a user or a DICOM header may use, and the one used in manifests.
MODALITIES: Dict[str, str] = {
    "CT": "CT",
    "MR": "MR",
    "MRI": "MR",
    "PET": "PET",
    "PT": "PET",
    "NM": "PET",
    "US": "US",
    "ULTRASOUND": "US",
    "IVUS": "US",
    "XRAY": "XRay",
    "X-RAY": "XRay",
    "CR": "XRay",
    "DX": "XRay",
    "XA": "XRay",
    "RF": "XRay",
    "PX": "XRay",
    "IO": "XRay",
    "MG": "Mammography",
    "MAMMOGRAPHY": "Mammography",
    "ES": "Endoscopy",
    "ENDOSCOPY": "Endoscopy",
    "DERMOSCOPY": "Dermoscopy",
    "XC": "Dermoscopy",
    "FUNDUS": "Fundus",
    "OP": "Fundus",
    "OCT": "OCT",
    "OPT": "OCT",
    "MICROSCOPY": "Microscopy",
    "MICROSCOPE": "Microscopy",
    "SM": "Microscopy",
    "GM": "Microscopy",
}

#: HU below which there is air, the share of voxels that a CT has of it at least, and of soft tissue (-150 to 150).
_AIR, _FEW_AIR, _LEAST_SOFT = -500, 0.01, 0.05
#: Voxels looked at for percentiles; more change the third digit at most and cost seconds on a whole-body scan.
_SAMPLE = 2_000_000


def known_modality(name: str) -> str:
    """The manifest's name of a modality.

    Raises:
        QMedSAMError: the name is not known.
    """
    try:
        return MODALITIES[name.strip().upper()]
    except KeyError:
        raise QMedSAMError(
            f"The modality '{name}' is not known.", "Use one of: " + ", ".join(sorted(set(MODALITIES.values()))) + "."
        ) from None


def looks_like_ct(array_kji: np.ndarray) -> Optional[bool]:
    """Whether grey values are Hounsfield units: air, more soft tissue than bone, and little between air and tissue.

    Returns:
        True or False; None where air's values are there but their histogram is not that of a CT.
    """
    values = array_kji.reshape(-1)[:: (array_kji.size // _SAMPLE) | 1].astype(np.float32)
    values = values[np.isfinite(values)]
    if not len(values):
        return False

    def share(low: float, high: float) -> float:
        return float(np.count_nonzero((values >= low) & (values <= high)) / len(values))

    air = share(-np.inf, _AIR)
    if air < _FEW_AIR:  # an MR that rings, a difference image
        return False if air < _FEW_AIR / 10 else None
    # Scanners fill what they do not see with one value; all else that is so dark is air or lung.
    filling = float(np.count_nonzero(values == values.min()) / len(values))
    dark = max(share(-1150, -600), filling)
    soft, between, bright = share(-150, 150) / 300, share(-450, -250) / 200, share(200, 500) / 300
    hounsfield = dark >= air / 2 and soft * 300 >= _LEAST_SOFT and max(2 * between, bright) < soft
    hounsfield = hounsfield and share(-5000, 5000) > 0.999
    return True if hounsfield else None


def parse_window(text: str) -> Tuple[float, float]:
    """``WIDTH,LEVEL`` or the name of a CT window.

    Raises:
        QMedSAMError: it is neither.
    """
    if text.lower() in CT_WINDOWS:
        return CT_WINDOWS[text.lower()]
    try:
        width, level = (float(v) for v in text.split(","))
    except ValueError:
        width = level = np.nan
    if not (np.isfinite([width, level]).all() and width > 0):
        raise QMedSAMError(f"'{text}' is not a window.", f"Give WIDTH,LEVEL or one of {', '.join(CT_WINDOWS)}.")
    return width, level


@dataclass(frozen=True)
class Intensity:
    """A linear map of grey values to 0..1, clipped: ``low`` becomes 0 and ``high`` 1. Applied slice by slice."""

    low: float
    high: float

    @classmethod
    def of(cls, volume: Volume, modality: str, window: Optional[Tuple[float, float]] = None) -> Intensity:
        """The map for a volume.

        Args:
            volume: grey or RGB.
            modality: a name of :data:`MODALITIES`' values.
            window: (width, level) chosen by the user; overrules the modality.

        Raises:
            QMedSAMError: the window is not valid, or the image is constant or has no finite value.
        """
        array = volume.array_kji
        if window is not None:
            width, level = window
            if not (np.isfinite([width, level]).all() and width > 0):
                raise QMedSAMError(f"The window {width}, {level} is not valid.", "Give a width above 0 and a level.")
            return cls(level - width / 2, level + width / 2)
        lowest, highest = _extremes(array)
        if volume.is_rgb or array.dtype in (np.uint8, np.bool_):
            return cls(0.0, 255.0 if highest > 1 else 1.0)
        # CT in HU always holds air or soft tissue below zero; a CT that does not was windowed before it was saved.
        if modality == "CT" and lowest < -100:
            width, level = CT_WINDOWS["abdomen"]
            return cls(level - width / 2, level + width / 2)
        # Zero is background (PET, skull-stripped MR) unless the image is signed, as z-scored exports are.
        # An odd step: a power of two would fall into step with the rows and see only some columns.
        values = array.reshape(-1)[:: (array.size // _SAMPLE) | 1]
        above = _wanted(values, lowest)
        if len(above) < 1000:  # almost empty: few voxels, so look at all of them
            above = np.concatenate([_wanted(plane, lowest) for plane in array])
        low, high = (float(p) for p in np.percentile(above, (0.5, 99.5)))
        if not high > low:  # e.g. a nearly binary image, whose 99.5 percentile is its background
            low, high = lowest, highest
        return cls(low, high)

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Float32 in 0..1, same shape; NaN and infinities become the nearer end (NaN: 0)."""
        pixels = np.asarray(pixels)
        # 8- and 16-bit values fit float32; an int64 or a float of 1e30 would overflow in the subtraction
        exact = np.float32 if pixels.dtype.itemsize <= 2 else np.float64
        scaled = pixels.astype(exact)
        scaled -= exact(self.low)
        scaled *= exact(1 / (self.high - self.low))
        np.clip(scaled, 0, 1, out=scaled)
        if pixels.dtype.kind == "f":
            scaled[np.isnan(scaled)] = 0
        return scaled.astype(np.float32, copy=False)


def _extremes(array: np.ndarray) -> Tuple[float, float]:
    """Lowest and highest finite value.

    Raises:
        QMedSAMError: there is none, or only one.
    """
    if array.dtype.kind == "f":
        lowest, highest = np.inf, -np.inf
        for plane in array:  # slice by slice: no byte per voxel more
            finite = np.isfinite(plane)
            lowest = min(lowest, float(np.min(plane, where=finite, initial=np.inf)))
            highest = max(highest, float(np.max(plane, where=finite, initial=-np.inf)))
        if lowest > highest:
            raise QMedSAMError("The image has no finite value.", "Check how it was exported.")
    else:
        lowest, highest = float(array.min()), float(array.max())
    if lowest == highest:
        raise QMedSAMError("Every voxel of the image has the same value.", "There is nothing to segment in it.")
    return lowest, highest


def _wanted(values: np.ndarray, lowest: float) -> np.ndarray:
    """The finite values that percentiles are taken of."""
    values = values[np.isfinite(values)] if values.dtype.kind == "f" else values.reshape(-1)
    return values[values > 0] if lowest >= 0 else values


def normalise(drawn: np.ndarray, valid: np.ndarray, kind: str, mean: Tuple[float, ...], std: Tuple[float, ...]) -> np.ndarray:
    """What a manifest's ``normalization`` says, on one frame.

    Args:
        drawn: ``size x size (x 3)`` in 0..1.
        valid: ``size x size``, true on the slice; the rest is padding and becomes 0 in the result.
        kind: ``zscore`` (of the valid pixels), ``minmax`` (of the valid pixels) or ``fixed`` (``mean`` and ``std``).
        mean, std: per channel, for ``fixed``.

    Returns:
        ``3 x size x size`` float32.
    """
    image = drawn.transpose(2, 0, 1) if drawn.ndim == 3 else drawn[None]  # a grey one is repeated at the very end
    on_slice = image if valid.all() else image[:, valid]
    shift: Any
    scale: Any
    if kind == "zscore":
        shift, scale = on_slice.mean(), max(float(on_slice.std()), 1e-3)
    elif kind == "minmax":
        shift, scale = on_slice.min(), max(float(on_slice.max() - on_slice.min()), 1e-6)
    else:
        shift, scale = (np.asarray(values, np.float32).reshape(-1, 1, 1) for values in (mean, std))
    normalised = (image - shift) / scale
    if on_slice is not image:
        normalised *= valid
    return np.ascontiguousarray(np.broadcast_to(normalised, (3, *valid.shape)), dtype=np.float32)
