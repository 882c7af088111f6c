"""A network of numpy for tests: bright things inside the box are the object. Counts its calls."""

from __future__ import annotations

from typing import List, Optional, Tuple

import numpy as np


class FakeNetwork:
    """Deterministic :class:`~qmedsam.network.Network`: the embedding is the image itself.

    A pixel belongs to the object when it lies in the box and is brighter than halfway between the frame's extremes.

    Args:
        input_size: of the frame.
        block: boxes per call.
        streams: as the protocol has it.
    """

    def __init__(self, input_size: int = 64, block: int = 16, streams: int = 1) -> None:
        self.input_size, self.block, self.streams = input_size, block, streams
        self.hinted, self.depth_px = False, 0.0
        self.encoded = 0
        self.decoded: List[int] = []

    def encode(self, image: np.ndarray) -> np.ndarray:
        self.encoded += 1
        return image[0].copy()

    def decode(
        self,
        embedding: np.ndarray,
        boxes_uv: np.ndarray,
        hints: Optional[np.ndarray] = None,
        kinds: Optional[np.ndarray] = None,
    ) -> Tuple[np.ndarray, np.ndarray]:
        self.decoded.append(len(boxes_uv))
        middle = (embedding.max() + embedding.min()) / 2
        axis = np.arange(self.input_size)
        logits = np.full((len(boxes_uv), self.input_size, self.input_size), -5.0, np.float32)
        for n, (u0, v0, u1, v1) in enumerate(boxes_uv):
            inside = (axis >= u0)[None] & (axis <= u1)[None] & (axis >= v0)[:, None] & (axis <= v1)[:, None]
            logits[n][inside] = (embedding - middle)[inside]
        filled = (logits > 0).any(axis=(1, 2))
        return logits[:, None], np.where(filled, 0.9, 0.1)[:, None]
