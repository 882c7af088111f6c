"""Embeddings of slices that a later pass of a run asks again."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Callable, Dict, Hashable

import numpy as np

#: Bytes of them that a run keeps.
KEPT_BYTES = 40 * 2**20


class Kept:
    """Embeddings that a later pass will ask for, a byte per value.

    Rounded to 256 steps between an embedding's extremes. Whoever asks again gets a rounded embedding, whether it was kept or not:
    masks depend neither on the memory nor on the order of streams.

    Args:
        most: bytes; what comes after is not kept.
    """

    def __init__(self, most: int = KEPT_BYTES) -> None:
        self._most, self._held = most, 0
        self._packed: Dict[Hashable, Packed] = {}
        self._lock = threading.Lock()

    def put(self, key: Hashable, embedding: np.ndarray) -> None:
        """Keep an embedding while there is room."""
        with self._lock:
            if key in self._packed or self._held + embedding.size > self._most:
                return
        packed = Packed.of(embedding)
        with self._lock:
            if key not in self._packed:
                self._packed[key] = packed
                self._held += embedding.size

    def get(self, key: Hashable, encode: Callable[[], np.ndarray]) -> np.ndarray:
        """What was kept, or is encoded now: rounded."""
        with self._lock:
            packed = self._packed.get(key)
        return (packed or Packed.of(encode())).embedding()

    def clear(self) -> None:
        """Let go of all of them."""
        with self._lock:
            self._packed.clear()
            self._held = 0


@dataclass(frozen=True)
class Packed:
    """An array of floats as bytes: ``values * step + lowest``."""

    values: np.ndarray
    step: np.float32
    lowest: np.float32

    @classmethod
    def of(cls, embedding: np.ndarray) -> Packed:
        """Rounded to the nearest of the steps."""
        lowest = np.float32(embedding.min())
        step = np.float32(max((float(embedding.max()) - float(lowest)) / 255, 1e-30))
        steps = embedding - lowest
        steps /= step
        steps += np.float32(0.5)
        return cls(np.minimum(steps, 255, out=steps).astype(np.uint8), step, lowest)

    def embedding(self) -> np.ndarray:
        """float32, of the shape that it had."""
        values = self.values.astype(np.float32)
        values *= self.step
        values += self.lowest
        return values
