"""The network behind two calls; everything above this room speaks only to :class:`Network`."""

from __future__ import annotations

from typing import Optional, Protocol, Tuple

import numpy as np

#: What can be said beside a box, as maps at the logits' resolution, in this order: the object on a neighbouring slice and the
#: present mask (1 object, -1 not, 0 nothing said), strokes that add and strokes that remove (1 on the stroke, else 0).
HINTS: Tuple[str, ...] = ("neighbour", "present", "add", "remove")
#: What kind of box it is: drawn around the object on this very slice, the cut of a 3D box, or around a neighbour's mask.
KINDS: Tuple[str, ...] = ("tight", "volume", "propagated")


class Network(Protocol):
    """An image is encoded once and then prompted as often as needed.

    Attributes:
        input_size: side ``S`` of the square it sees, in pixels.
        block: how many boxes one call of :meth:`decode` should get at most; callers loop, so memory does not grow with
            the number of boxes (QMedSAM paper, section 2.1).
        streams: how many threads may ask it at the same time.
        hinted: whether it listens to hints and kinds; one that does not ignores them.
        depth_px: distance, in network pixels, of the slices before and behind that it wants as first and third channel of a
            grey volume's slice; 0 for the slice itself three times.
    """

    input_size: int
    block: int
    streams: int
    hinted: bool
    depth_px: float

    def encode(self, image: np.ndarray) -> np.ndarray:
        """``3 x S x S`` normalised float32 to an embedding of the network's own shape. The result is the caller's."""
        ...

    def decode(
        self,
        embedding: np.ndarray,
        boxes_uv: np.ndarray,
        hints: Optional[np.ndarray] = None,
        kinds: Optional[np.ndarray] = None,
    ) -> Tuple[np.ndarray, np.ndarray]:
        """Masks of boxes on an encoded image.

        Args:
            embedding: what :meth:`encode` returned.
            boxes_uv: ``N x 4``, edges ``(u0, v0, u1, v1)`` in network pixels (centres at integers).
            hints: ``N x 4 x m x m``, see :data:`HINTS`; None says nothing.
            kinds: ``N x 3``, see :data:`KINDS`, one of them 1 or none; None says nothing.

        Returns:
            Logits ``N x C x m x m`` (``m`` pixels cover the whole frame) and predicted IoU ``N x C`` in 0..1 of the ``C``
            candidates that the network has for a prompt.
        """
        ...
