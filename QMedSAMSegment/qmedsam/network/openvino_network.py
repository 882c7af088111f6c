"""The shipped implementation: OpenVINO on the CPU."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from ..errors import QMedSAMError, lacks_memory
from ..models import Model
from . import HINTS, KINDS
from .compiled import cache_folder, keep_deviation, kept_deviation, sealing
from .processor import CAPS, processor_kind, processor_name
from .reference import Deviation, Reference
from .runtime import import_openvino

_log = logging.getLogger("QMedSAM")


class OpenVINONetwork:
    """A model folder as a :class:`~qmedsam.network.Network`.

    Args:
        model: checked against its checksums before loading.
        threads: CPU threads, 0 for all.
        precision: ``INFERENCE_PRECISION_HINT`` for what is not int8 (``f32``, ``bf16``); None leaves it to OpenVINO, which
            takes bf16 where the processor has it. In bf16 the decoder's attention is cut up by the number of threads, which
            moved logits by up to 0.3 and a voxel here and there; in f32 results were the same for 1, 2 and 4 threads.

    Attributes:
        doubt: why this machine's masks are not to be trusted: its answer to the model's stored input differs from the
            reference. Empty when it agrees, the model carries none, or before the first mask of the first run: it is
            compared then, once for a model, a kind of processor and a version of OpenVINO (remembered with the compiled
            networks), and only in f32.

    Raises:
        QMedSAMError: OpenVINO is missing, the files are damaged, or the networks cannot be compiled.
    """

    block = 16
    _SHAPES = (16, 4, 1)

    def __init__(self, model: Model, threads: int = 0, precision: Optional[str] = "f32") -> None:
        model.verify()
        openvino = import_openvino()
        self.model = model
        # A run that was given up goes on until its slice ends while the next one starts: one network, one request at a time.
        self._lock = threading.Lock()
        self.input_size = model.manifest.input_size
        self.hinted = bool(model.manifest.prompts.get("hints"))
        self.depth_px = float(model.manifest.prompts.get("depth_px", 0.0))
        self._scale = np.float32(model.manifest.prompt_size / self.input_size)
        self._core, self._version = openvino.Core(), openvino.__version__
        # Unpinned: two programs pinned to the same core starve each other while other cores are idle.
        self._options: Dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
        if threads:
            self._options["INFERENCE_NUM_THREADS"] = threads
        if precision:
            self._options["INFERENCE_PRECISION_HINT"] = precision
        self._cache = cache_folder(model, processor_kind(self._core, self._version))
        if self._cache:
            self._options["CACHE_DIR"] = str(self._cache)
        size = self.input_size
        self._encoder = self._compiled(model.encoder, {"image": [1, 3, size, size]})
        self._decoders: Dict[int, Any] = {}
        self._reference = Reference.of(model)
        self.doubt, self._compared = "", precision != "f32" or self._reference is None
        kept = kept_deviation(self._cache)
        if not self._compared and kept and self._reference is not None:
            self._judge(Deviation(*kept, *self._reference.most))

    def _compiled(self, path: Path, shapes: Dict[str, list]) -> Any:
        try:
            graph = self._core.read_model(path)
            graph.reshape(shapes)  # fixed shapes are faster than dynamic ones
            with sealing(self._cache):
                return self._core.compile_model(graph, "CPU", self._options)
        except RuntimeError as error:
            _log.debug("OpenVINO refused %s", path.name, exc_info=True)
            if lacks_memory(error):
                raise QMedSAMError(
                    f"There is not enough memory to load the model '{self.model.name}'.",
                    "Close other programs, take fewer threads, or raise the limit that this one has.",
                ) from error
            capped = [cap for cap in CAPS if os.environ.get(cap)]
            advice = f"Unset {' and '.join(capped)}" if capped else "Update OpenVINO, or verify the model"
            raise QMedSAMError(
                f"OpenVINO cannot load '{path.name}' of the model '{self.model.name}'.",
                f"{advice}. ({str(error).strip().splitlines()[-1][:200]})",
            ) from error

    def _decoder(self, count: int) -> Any:
        if count not in self._decoders:
            shape = list(self._encoder.output(0).shape)
            shapes = {"embedding": shape, "boxes": [count, 4]}
            if self.hinted:
                side = self.input_size // 2
                shapes.update(hints=[count, len(HINTS), side, side], kinds=[count, len(KINDS)])
            self._decoders[count] = self._compiled(self.model.decoder, shapes)
        if not self._compared:
            self._compared = True
            deviation = self._compare(self._decoders[count], count)
            keep_deviation(self._cache, deviation.embedding, deviation.logits)
            self._judge(deviation)
        return self._decoders[count]

    def _compare(self, decoder: Any, count: int) -> Deviation:
        """With whatever number of boxes a decoder takes: compiling another one takes longer than all the rest."""
        reference = self._reference
        assert reference is not None, "a network without one is never compared"
        embedding = self._encoder(reference.image[None])[0]
        boxes = np.resize(reference.boxes_uv, (-(-len(reference.boxes_uv) // count) * count, 4)) * self._scale
        logits = [decoder([embedding, boxes[n : n + count], *self.silence(count)])[0] for n in range(0, len(boxes), count)]
        return reference.compared(embedding, np.concatenate(logits)[: len(reference.boxes_uv)])

    def _judge(self, deviation: Deviation) -> None:
        self._compared = True
        if deviation.too_far:
            self.doubt = self.sentence(deviation)
            _log.warning("%s", self.doubt)

    def sentence(self, deviation: Deviation) -> str:
        """What to tell a user of a machine whose answer is too far from the reference."""
        return (
            f"The model '{self.model.name}' computes something else on this computer ({processor_name(self._core)}, OpenVINO "
            f"{self._version}) than it should: {deviation}. Do not rely on its masks; try another version of OpenVINO."
        )

    def check(self) -> Optional[Deviation]:
        """This machine's answer now, whatever was remembered; None if the model carries no reference answer."""
        if self._reference is None:
            return None
        with self._lock:
            self._compared = True
            return self._compare(self._decoder(1), 1)

    def encode(self, image: np.ndarray) -> np.ndarray:
        """See :class:`~qmedsam.network.Network`."""
        # The plain call copies its outputs; an infer request's own tensors would change under the next request.
        with self._lock:
            return self._encoder(image[None])[0]

    def decode(
        self,
        embedding: np.ndarray,
        boxes_uv: np.ndarray,
        hints: Optional[np.ndarray] = None,
        kinds: Optional[np.ndarray] = None,
    ) -> Tuple[np.ndarray, np.ndarray]:
        """See :class:`~qmedsam.network.Network`. Fixed shapes of 16, 4 and 1 boxes, compiled when first needed."""
        boxes = np.asarray(boxes_uv, np.float32) * self._scale
        logits, confidence = [], []
        for start, count in _blocks(len(boxes), self._SHAPES):
            part = slice(start, start + count)
            said = self.silence(count)
            if said and hints is not None:
                said[0] = np.asarray(hints[part], np.float32)
            if said and kinds is not None:
                said[1] = np.asarray(kinds[part], np.float32)
            with self._lock:
                out = self._decoder(count)([embedding, boxes[part], *said])
            masks = out[0] if out[0].ndim == 4 else out[0][:, None]
            logits.append(masks)
            # A decoder without IoU head (a published LiteMedSAM export) is as confident as its pixels are.
            confidence.append(out[1].reshape(masks.shape[:2]) if len(out) > 1 else _pixel_confidence(masks))
        return np.concatenate(logits), np.concatenate(confidence)

    def silence(self, count: int) -> List[np.ndarray]:
        """Hints and kinds that say nothing, where the decoder has them."""
        if not self.hinted:
            return []
        side = self.input_size // 2
        return [np.zeros((count, len(HINTS), side, side), np.float32), np.zeros((count, len(KINDS)), np.float32)]


def _blocks(count: int, shapes: Sequence[int]) -> Iterator[Tuple[int, int]]:
    """Where calls of whole shapes begin, and how many boxes each takes: six as 4 + 1 + 1, half of the time of a padded 16."""
    start = 0
    while start < count:
        shape = next(size for size in shapes if size <= count - start)
        yield start, shape
        start += shape


def _pixel_confidence(logits: np.ndarray) -> np.ndarray:
    """Mean probability inside the thresholded mask, per mask (``N x C x m x m`` to ``N x C``); 0 for an empty one."""
    inside = logits > 0
    probability = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
    return (probability * inside).sum(axis=(2, 3)) / np.maximum(inside.sum(axis=(2, 3)), 1)
