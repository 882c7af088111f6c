"""Set a slice once, prompt it many times (the shape of segment-anything's predictor)."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Collection, Dict, Iterator, Optional, Sequence, Tuple

import numpy as np

from .frames import Frame
from .geometry import Pixels, Rectangle, View, Volume
from .intensity import Intensity, normalise
from .kept import Kept
from .network import HINTS, KINDS, Network
from .turns import out_of_turn

#: Embeddings kept for a second look at a slice (the downward sweep of other boxes). Bytes, not slices: the bound on the
#: memory that a run adds must hold whatever the model.
CACHE_BYTES = 32 * 2**20
#: The same of a box with a frame of its own: all looks at a slice follow each other, but for those that find where to begin.
ALONE_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Region:
    """A boolean mask on a part of a slice: ``pixels`` are ``x0, y0, x1, y1``, end excluded; it is false elsewhere."""

    mask: np.ndarray
    pixels: Pixels


@dataclass(frozen=True)
class Prompt:
    """What is asked about an object on a slice.

    Attributes:
        rectangle: slice coordinates, edges.
        kind: of the rectangle, one of :data:`~qmedsam.network.KINDS`; empty where nothing is known.
        neighbour: the object on a slice beside this one.
        present: its mask on this slice so far, which is to be corrected.
        add, remove: strokes of the user on this slice.
        candidate: which of the answers to take, 0 for the surest.
    """

    rectangle: Rectangle
    kind: str = ""
    neighbour: Optional[Region] = None
    present: Optional[Region] = None
    add: Optional[Region] = None
    remove: Optional[Region] = None
    candidate: int = 0


class Clock:
    """Seconds per stage, and what was asked of the network.

    Attributes:
        seconds: by stage; of streams side by side their sum, which may be more than the time that passed.
        encodes: slices encoded.
        decodes: prompts decoded.
    """

    def __init__(self) -> None:
        self.seconds: Dict[str, float] = {}
        self.encodes = self.decodes = 0
        self._lock = threading.Lock()

    def count(self, encodes: int = 0, decodes: int = 0) -> None:
        """What was asked, from any stream."""
        with self._lock:
            self.encodes += encodes
            self.decodes += decodes

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
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
        cached: bytes of embeddings that it holds for looks at the same slices.
        kept: what earlier passes kept, and gets ``later``.
        later: slices that a later pass asks again.
        again: whether this is that pass.
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
        cached: int = CACHE_BYTES,
        kept: Optional[Kept] = None,
        later: Collection[int] = (),
        again: bool = False,
    ) -> None:
        self._cached, self._kept, self._later, self._again = cached, kept, later, again
        self.network, self.volume, self.view, self.frame = network, volume, view, frame
        self.intensity, self.normalization, self.clock = intensity, normalization, clock
        self._embeddings: OrderedDict[Tuple[int, bool], np.ndarray] = OrderedDict()
        self._drawn: OrderedDict[int, Tuple[np.ndarray, np.ndarray]] = OrderedDict()
        self._lock = threading.Lock()  # two streams may look at different slices of one view
        self._apart = 0
        if network.depth_px and view.count > 1 and not volume.is_rgb:
            distance_mm = network.depth_px * view.pixel_mm[0] / frame.scale_x
            self._apart = max(round(distance_mm / view.spacing_mm[view.axis]), 1)

    def embedding(self, index: int, mirrored: bool = False) -> np.ndarray:
        """Of a slice, or of it left for right; encoded when it is not among the last ones."""
        key = index, mirrored
        with self._lock:
            if key in self._embeddings:
                self._embeddings.move_to_end(key)
                return self._embeddings[key]
        place = self.view.axis, self.frame, index, mirrored
        if self._kept is not None and self._again:
            embedding = self._kept.get(place, partial(self._encoded, index, mirrored))
        else:
            embedding = self._encoded(index, mirrored)
        if self._kept is not None and index in self._later:
            self._kept.put(place, embedding)
        with self._lock:
            self._embeddings[key] = embedding
            while len(self._embeddings) > 1 and len(self._embeddings) * embedding.nbytes > self._cached:
                self._embeddings.popitem(last=False)
        return embedding

    def _encoded(self, index: int, mirrored: bool) -> np.ndarray:
        with self.clock.stage("frame"):
            drawn, valid = self._channels(index)
            kind = self.normalization
            image = normalise(drawn, valid, kind["kind"], kind.get("mean", ()), kind.get("std", ()))
            image = np.ascontiguousarray(image[..., ::-1]) if mirrored else image
        with out_of_turn(), self.clock.stage("encode"):
            embedding = self.network.encode(image)
        self.clock.count(encodes=1)
        return embedding

    def _channels(self, index: int) -> Tuple[np.ndarray, np.ndarray]:
        """A slice in the frame, between the slices before and behind it where the network wants them."""
        if not self._apart:
            return self._slice(index)
        last = self.view.count - 1
        around = [self._slice(min(max(index + n, 0), last)) for n in (-self._apart, 0, self._apart)]
        return np.stack([drawn for drawn, _ in around], axis=-1), around[1][1]

    def _slice(self, index: int) -> Tuple[np.ndarray, np.ndarray]:
        """One slice in the frame and what of the frame lies on it; the last ones are kept for their neighbours."""
        with self._lock:
            drawn = self._drawn.get(index)
        if drawn is None:
            # Window first, then resample, as in training: averaging metal or air before clipping would shift borders.
            drawn = self.frame.sample(self.view.slice_of(self.volume.array_kji, index), self.intensity.apply)
            with self._lock:
                self._drawn[index] = drawn
                while len(self._drawn) > 2 * self._apart + 2:
                    self._drawn.popitem(last=False)
        return drawn

    def predict(self, index: int, prompts: Sequence[Prompt], mirrored: bool = False) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
        """Logits (network grid, ``C x m x m``) and confidence (``C``) for each prompt, in order.

        Decoded in blocks, handed out one by one: memory does not grow with the number of prompts. ``mirrored``: the network
        is shown the slice and its prompts left for right; the logits are turned back.
        """
        embedding = self.embedding(index, mirrored)
        for start in range(0, len(prompts), self.network.block):
            block = prompts[start : start + self.network.block]
            boxes = np.array([self.frame.to_network(prompt.rectangle) for prompt in block], np.float32)
            hints, kinds = self._said(block) if self.network.hinted else (None, None)
            if mirrored:
                boxes[:, [0, 2]] = self.network.input_size - 1 - boxes[:, [2, 0]]
                hints = None if hints is None else np.ascontiguousarray(hints[..., ::-1])
            with out_of_turn(), self.clock.stage("decode"):
                logits, confidence = self.network.decode(embedding, boxes, hints, kinds)
            self.clock.count(decodes=len(boxes))
            for n in range(len(boxes)):
                yield logits[n, ..., ::-1] if mirrored else logits[n], confidence[n]

    def _said(self, prompts: Sequence[Prompt]) -> Tuple[np.ndarray, np.ndarray]:
        side = self.network.input_size // 2
        hints = np.zeros((len(prompts), len(HINTS), side, side), np.float32)
        kinds = np.zeros((len(prompts), len(KINDS)), np.float32)
        for n, prompt in enumerate(prompts):
            if prompt.kind:
                kinds[n, KINDS.index(prompt.kind)] = 1
            for channel, name in enumerate(HINTS):
                region: Optional[Region] = getattr(prompt, name)
                if region is not None:
                    there = self.frame.on_grid(region.mask, region.pixels, side)
                    # masks say where the object is and where not, strokes say nothing beside them
                    hints[n, channel] = there * 2.0 - 1.0 if channel < 2 else there
        return hints, kinds
