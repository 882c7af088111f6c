"""An engine that corrects by rule, so that tests know what must come of a stroke."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, List, Optional

import numpy as np
from qmedsam import Segmenter
from qmedsam.network.fake import FakeNetwork

#: How far a stroke is carried along its axis, and how far it reaches in its slice, in voxels.
CARRIED, REACH = 2, 2


class RuleSegmenter(Segmenter):
    """Adds and removes a block around every point of a stroke; candidate ``n`` reaches ``n`` voxels further.

    Attributes:
        calls: what was asked, in order.
        between: called before the whole object is computed.
    """

    def __init__(self, model: Optional[str] = None) -> None:
        super().__init__(network=FakeNetwork(input_size=256))
        self.calls: List[SimpleNamespace] = []
        self.between: Any = None

    def correct(
        self,
        volume: Any,
        box: Any,
        present_kji: np.ndarray,
        *,
        modality: str = "auto",
        frame: Any = None,
        window: Any = None,
        shown: Any = None,
        kept: Any = (),
        candidate: int = 0,
        progress: Any = None,
        cancelled: Any = None,
    ) -> Any:
        assert present_kji.shape == volume.array_kji.shape[:3] and present_kji.dtype == bool
        self.calls.append(SimpleNamespace(volume=volume, box=box, shown=shown, kept=set(kept), candidate=candidate))
        if shown is None and self.between is not None:
            self.between()
        mask = present_kji.copy()
        for stroke in box.strokes:
            reach = np.full(3, REACH + candidate)
            reach[stroke.axis] = CARRIED
            for point in np.rint(stroke.points_ijk).astype(int):
                low, high = np.maximum(point - reach, 0), point + reach + 1
                mask[tuple(slice(a, b) for a, b in zip(low[::-1], high[::-1]))] = stroke.adds
        for axis, index in kept:
            at = (slice(None),) * (2 - axis) + (index,)
            mask[at] = present_kji[at]
        if progress is not None:
            progress(1, 2)
        stopped = bool(cancelled is not None and cancelled())
        crop = tuple(slice(0, size) for size in mask.shape)
        return SimpleNamespace(
            crop=crop,
            mask_kji_crop=mask,
            confidence=0.8,
            candidates=(0.8, 0.7, 0.6),
            messages=[],
            seconds={"total": 0.01},
            cancelled=stopped,
        )
