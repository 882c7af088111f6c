"""The network behind two calls; everything above this room speaks only to :class:`Network`."""

from __future__ import annotations

from typing import Protocol, Tuple

import numpy as np


class Network(Protocol):
    """An image is encoded once and then prompted as often as needed.

    Attributes:
        input_size: side ``S`` of the square it sees, in pixels.
        block: how many boxes one call of :meth:`decode` should get at most; callers loop, so memory does not grow with
            the number of boxes (QMedSAM paper, section 2.1).
    """

    input_size: int
    block: int

    def encode(self, image: np.ndarray) -> np.ndarray:
        """``3 x S x S`` normalised float32 to an embedding of the network's own shape. The result is the caller's."""
        ...

    def decode(self, embedding: np.ndarray, boxes_uv: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Masks of boxes on an encoded image.

        Args:
            embedding: what :meth:`encode` returned.
            boxes_uv: ``N x 4``, edges ``(u0, v0, u1, v1)`` in network pixels (centres at integers).

        Returns:
            Logits ``N x m x m`` (``m`` pixels cover the whole frame) and predicted IoU ``N`` in 0..1.
        """
        ...
