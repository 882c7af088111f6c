"""Set a slice once, prompt it many times (the shape of segment-anything's predictor)."""

from __future__ import annotations

import time
from collections import OrderedDict
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Sequence, Tuple

import numpy as np

from .frames import Frame
from .geometry import Rectangle, View, Volume
from .intensity import Intensity, normalise
from .network import Network

#: Embeddings kept for a second look at a slice (the downward sweep of other boxes). Bytes, not slices: the bound on the
#: memory that a run adds must hold whatever the model.
CACHE_BYTES = 32 * 2**20


class Clock:
    """Seconds per stage, and what was asked of the network.

    Attributes:
        seconds: by stage.
        encodes: slices encoded.
        decodes: prompts decoded.
    """

    def __init__(self) -> None:
        self.seconds: Dict[str, float] = {}
        self.encodes = self.decodes = 0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


class SlicePredictor:
    """One view of a volume through one frame.

    Args:
        network: encodes and decodes.
        volume: is sliced along ``view``.
        frame: the same square on every slice.
        intensity: grey values to 0..1.
        normalization: the manifest's field.
        clock: is charged with ``frame``, ``encode`` and ``decode``.
    """

    def __init__(
        self,
        network: Network,
        volume: Volume,
        view: View,
        frame: Frame,
        intensity: Intensity,
        normalization: Dict[str, Any],
        clock: Clock,
    ) -> None:
        self.network, self.volume, self.view, self.frame = network, volume, view, frame
        self.intensity, self.normalization, self.clock = intensity, normalization, clock
        self._embeddings: OrderedDict[int, np.ndarray] = OrderedDict()

    def embedding(self, index: int) -> np.ndarray:
        """Of a slice; encoded when it is not among the last ones."""
        if index in self._embeddings:
            self._embeddings.move_to_end(index)
            return self._embeddings[index]
        with self.clock.stage("frame"):
            # Window first, then resample, as in training: averaging metal or air before clipping would shift borders.
            drawn, valid = self.frame.sample(self.view.slice_of(self.volume.array_kji, index), self.intensity.apply)
            kind = self.normalization
            image = normalise(drawn, valid, kind["kind"], kind.get("mean", ()), kind.get("std", ()))
        with self.clock.stage("encode"):
            embedding = self.network.encode(image)
        self.clock.encodes += 1
        self._embeddings[index] = embedding
        while len(self._embeddings) > 1 and len(self._embeddings) * embedding.nbytes > CACHE_BYTES:
            self._embeddings.popitem(last=False)
        return embedding

    def predict(self, index: int, rectangles: Sequence[Rectangle]) -> Iterator[Tuple[np.ndarray, float]]:
        """Logits (network grid, ``m x m``) and confidence for each rectangle (slice coordinates, edges), in order.

        Decoded in blocks, handed out one by one: memory does not grow with the number of boxes.
        """
        embedding = self.embedding(index)
        for start in range(0, len(rectangles), self.network.block):
            boxes = np.array([self.frame.to_network(r) for r in rectangles[start : start + self.network.block]], np.float32)
            with self.clock.stage("decode"):
                logits, confidence = self.network.decode(embedding, boxes)
            self.clock.decodes += len(boxes)
            for n in range(len(boxes)):
                yield logits[n], float(confidence[n])
