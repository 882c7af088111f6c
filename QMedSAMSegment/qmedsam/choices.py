"""What a run takes where its caller names nothing: modality, strategy, frames."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from .errors import QMedSAMError
from .frames import Frame
from .geometry import Box, View, Volume
from .intensity import MODALITIES, known_modality, looks_like_ct
from .models import Model
from .strategies import STRATEGIES, Item
from .strategies.thin import thinnest

#: What ``auto`` means for a volume where the model's manifest does not say otherwise; measured in ``Docs/Evidence/Strategies``.
AUTO = {"PET": "vote", "CT": "vote", "MR": "vote", "": "propagate"}

#: Projections and photographs: slices of one image are frames in time. Nothing is to be followed from one to the next, and
#: ``propagate``, which ends objects before the box does, loses the first and last ones (12 equal frames: DSC 0.872, alone 0.996).
FRAMES_IN_TIME = ("XRay", "Mammography", "Endoscopy", "Dermoscopy", "Fundus")


def settings_of(model: Optional[Model]) -> Dict[str, Any]:
    """What the engine needs of a manifest; plain defaults for a network given without one."""
    if model is None:
        return {"normalization": {"kind": "zscore"}, "frame": {"kind": "roi", "margin": 0.3}, "strategies": {}}
    manifest = model.manifest
    return {"normalization": manifest.normalization, "frame": manifest.frame, "strategies": manifest.strategies}


def resolved_modality(volume: Volume, asked: str, windowed: bool, messages: List[str]) -> str:
    """The modality to work with; says so when it had to be assumed. Empty means "none known"."""
    if asked != "auto":
        return known_modality(asked)
    known = MODALITIES.get(volume.modality.strip().upper(), "")
    if known or volume.is_rgb or volume.array_kji.dtype == np.uint8:
        return known  # 8 bit is taken as it is, and holds no HU to know CT by
    named = f"names the unknown modality '{volume.modality}'" if volume.modality else "names no modality"
    ct = looks_like_ct(volume.array_kji)
    if ct:
        # Also with a window of the user's: the model and the strategy depend on the modality.
        taken = "" if windowed else ", windowed as abdomen (W 400, L 40)"
        messages.append(f"The file {named}; values below -500 look like CT{taken}.")
        return "CT"
    if ct is None:
        named += "; some values lie below -500 as in CT, but the others do not look like it (if it is one, name it)"
    if not windowed:
        messages.append(f"The file {named}; grey values are scaled between their 0.5 and 99.5 percentile.")
    return ""


def resolved_strategy(
    asked: str, settings: Dict[str, Any], modality: str, volume: Volume, boxes: Sequence[Box], messages: List[str]
) -> str:
    if asked != "auto" and asked not in STRATEGIES:
        raise QMedSAMError(f"There is no strategy '{asked}'.", "Use one of: auto, " + ", ".join(STRATEGIES) + ".")
    if volume.array_kji.shape[0] == 1:
        return "fixed"  # one slice: nothing to walk through
    if asked != "auto":
        return asked
    if all(thinnest(box, volume)[1] == 1 for box in boxes):
        return "fixed"
    if (volume.is_rgb or modality in FRAMES_IN_TIME) and modality not in settings["strategies"]:
        messages.append("The slices are taken for frames in time, each segmented by itself; name a strategy to get another.")
        return "fixed"
    chosen = strategy_for(modality, settings["strategies"])
    if not modality:
        messages.append(f"The strategy for an unknown modality is '{chosen}'; name the modality to get its own.")
    return chosen


def strategy_for(modality: str, of_model: Mapping[str, str]) -> str:
    """What ``auto`` takes for volumes of a modality (``""``: unknown): the model's manifest first."""
    return of_model.get(modality) or AUTO.get(modality, AUTO[""])


def by_frame(items: Sequence[Item], kind: str, size: int, margin: float) -> Dict[Tuple[View, Frame], List[Item]]:
    """Items by the view and the frame that they share."""
    groups: Dict[Tuple[View, Frame], List[Item]] = {}
    for item in items:
        if kind == "slice":
            frame = Frame.whole_slice(item.view, size)
        else:
            x, y = item.view.in_plane
            corners = item.box.corners_ijk
            low, high = corners.min(axis=0), corners.max(axis=0)
            # Nothing lies beyond the image: the network's pixels are for what does.
            shown = item.view.clipped((low[x], low[y], high[x], high[y]))
            frame = Frame.around(shown, item.view, size, margin)
        groups.setdefault((item.view, frame), []).append(item)
    return groups
