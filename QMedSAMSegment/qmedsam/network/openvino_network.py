"""The shipped implementation: OpenVINO, on the CPU unless another device is asked for."""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple
from weakref import WeakMethod

import numpy as np

from ..errors import QMedSAMError, lacks_memory
from ..models import Model
from . import HINTS, KINDS
from .compiled import cache_folder, keep_deviation, keep_network, kept_deviation, kept_network
from .processor import CAPS, available_cores, has_avx2, processor_kind, processor_name
from .products import as_convolutions
from .reference import Deviation, Reference
from .runtime import import_openvino

_log = logging.getLogger("QMedSAM")

#: Bytes of weights up to which a network runs in streams of one thread each; a larger one's layers are worth cutting up.
SMALL = 8 * 2**20
#: Where a network may run. AUTO lets OpenVINO choose among what is there.
DEVICES = ("CPU", "GPU", "NPU", "AUTO")
#: Streams at most: each holds a copy of the networks (some 35 MiB), and a box has two views and a few slices to ask.
MOST_STREAMS = 3
#: What follows a product value by value is computed by kernels that OpenVINO has, not by some that it writes for each place when
#: a network is loaded ("snippets"), which takes most of the time until a first mask and a fifth of the memory (Decision 0038).
PLAIN = {"SNIPPETS_MODE": "DISABLE"}
#: How often callers wait for a network that is asked already before one more copy of it is made: few slices do not pay for it.
PATIENCE = 8


class OpenVINONetwork:
    """A model folder as a :class:`~qmedsam.network.Network`.

    Args:
        model: checked against its checksums before loading.
        threads: CPU threads, 0 for all. A small network is not cut up over them: it may be asked by as many threads at the same
            time, three at most (``streams``), and works in theirs.
        precision: ``INFERENCE_PRECISION_HINT`` for what is not int8 (``f32``, ``bf16``); None leaves it to OpenVINO, which
            takes bf16 where the processor has it. In bf16 the decoder's attention is cut up by the number of threads, which
            moved logits by up to 0.3 and a voxel here and there; in f32 results were the same for 1, 2 and 4 threads.
        ahead: also load the decoder of one box, in a thread of its own, while the encoder is loaded and asked for the first
            time. It takes the longest of all on the way to a first mask.
        device: one of :data:`DEVICES`. Others than the CPU are compared with the reference answer at once, which the model must
            carry. Only the CPU was ever tested.

    Attributes:
        doubt: why this machine's masks are not to be trusted: its answer to the model's stored input differs from the
            reference. Empty when it agrees, the model carries none, or before the first mask of the first run: it is
            compared then, once for a model, a kind of processor and a version of OpenVINO (remembered with the compiled
            networks), and only in f32.

    Raises:
        QMedSAMError: OpenVINO is missing, the files are damaged, the networks cannot be compiled, the device is not there, or
            it answers differently than it should.
    """

    block = 4
    _SHAPES = (4, 1)  # a decoder of 16 boxes takes a tenth less time a box, and 71 MiB (two streams: 112)

    def __init__(
        self,
        model: Model,
        threads: int = 0,
        precision: Optional[str] = "f32",
        ahead: bool = False,
        device: str = "CPU",
    ) -> None:
        model.verify()
        openvino = import_openvino()
        self.model = model
        self._lock = threading.RLock()  # around what is made when it is first needed
        self.input_size = model.manifest.input_size
        self.hinted = bool(model.manifest.prompts.get("hints"))
        self.depth_px = float(model.manifest.prompts.get("depth_px", 0.0))
        self._scale = np.float32(model.manifest.prompt_size / self.input_size)
        self._openvino, self._core, self._version = openvino, openvino.Core(), openvino.__version__
        self._device = device
        if device != "CPU":
            self._check_device()
        small = (
            device == "CPU" and sum(path.with_suffix(".bin").stat().st_size for path in (model.encoder, model.decoder)) <= SMALL
        )
        self.streams = min(threads or available_cores(), MOST_STREAMS) if small else 1
        self._options: Dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision} if precision else {}
        self._cache = None
        if device == "CPU":
            # Unpinned: two programs pinned to the same core starve each other while other cores are idle. A small network has no
            # stream of OpenVINO's (0): it works in whatever thread asks, without handing over and without threads of its own.
            self._options.update(ENABLE_CPU_PINNING=False, NUM_STREAMS=0 if small else 1)
            if threads or small:
                self._options["INFERENCE_NUM_THREADS"] = 1 if small else threads
            self._cache = cache_folder(model, processor_kind(self._core, self._version))
            if small:
                with suppress(RuntimeError):  # an OpenVINO that does not know it
                    self._core.set_property("CPU", PLAIN)
                    self._options.update(PLAIN)
        size = self.input_size
        self._shapes: Dict[str, list] = {"image": [1, 3, size, size]}  # of what an encoder takes
        self._decoders: Dict[int, Requests] = {}
        # By one thread: OpenVINO's binding makes what it needs at its first tensor, and two threads that make their first at the
        # same time wait for each other for ever (one in 200 starts).
        assert openvino.Tensor(np.zeros(1, np.float32)).data.size == 1
        if ahead:
            threading.Thread(target=self._load_ahead, name="qmedsam-decoder").start()
        self._encoder = self._requests(model.encoder)
        self._encoder([np.zeros((1, 3, size, size), np.float32)])
        self._reference = Reference.of(model)
        self.doubt, self._compared = "", precision != "f32" or self._reference is None
        kept = kept_deviation(self._cache)
        if not self._compared and kept and self._reference is not None:
            self._judge(Deviation(*kept, *self._reference.most))
        if device != "CPU":
            deviation = self.check()
            if deviation is None or deviation.too_far:
                said = f"its answer differs from the model's own: {deviation}" if deviation else "the model carries no answer"
                raise QMedSAMError(f"The device {device} is not used for '{model.name}', as {said}.", "Leave out --device.")

    def _check_device(self) -> None:
        there = {name.split(".")[0] for name in self._core.available_devices}
        if self._device not in DEVICES:
            raise QMedSAMError(f"There is no device '{self._device}'.", f"Use one of {', '.join(DEVICES)}.")
        if self._device != "AUTO" and self._device not in there:
            raise QMedSAMError(
                f"OpenVINO finds no {self._device} on this computer.",
                f"It finds: {', '.join(sorted(there))}. A driver may be missing; without --device the CPU is taken.",
            )

    def _read(self, path: Path, shapes: Dict[str, list]) -> Any:
        graph = self._core.read_model(path)
        graph.reshape(shapes)  # fixed shapes are faster than dynamic ones
        return graph

    def _requests(self, path: Path, count: int = 0) -> Requests:
        compiled = WeakMethod(self._compiled)  # else this object and its requests hold each other, and their memory

        def one_more() -> Any:
            load = compiled()
            assert load is not None, "who asks holds the network"
            return load(path, count)

        return Requests(self._compiled(path, count), one_more, self.streams)

    def _compiled(self, path: Path, count: int = 0) -> Any:
        """The encoder (0), or a decoder of so many boxes."""
        how = hashlib.sha256(repr(sorted(self._options.items())).encode()).hexdigest()[:8]
        blob = self._cache / f"{path.stem}-{count}-{how}.blob" if self._cache else None
        with self._explained(path):
            kept = kept_network(blob)
            if kept is not None:
                try:
                    return self._core.import_model(kept, "CPU", self._options)
                except RuntimeError:
                    _log.debug("OpenVINO refused what was kept of %s", path.name, exc_info=True)
            graph = self._read(path, self._prompted(count) if count else self._shapes)
            if self._device == "CPU" and has_avx2():
                as_convolutions(self._openvino, graph)
            compiled = self._core.compile_model(graph, self._device, self._options)
            if blob:
                keep_network(blob, compiled.export_model().getvalue())
            return compiled

    @contextmanager
    def _explained(self, path: Path) -> Iterator[None]:
        try:
            yield
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

    def _decoder(self, count: int) -> Requests:
        with self._lock:
            return self._made(count)

    def _load_ahead(self) -> None:
        with suppress(QMedSAMError), self._lock:  # whoever asks for it tries again, and is told
            self._loaded(1)

    def _loaded(self, count: int) -> Requests:
        if count not in self._decoders:
            self._decoders[count] = self._requests(self.model.decoder, count)
        return self._decoders[count]

    def _prompted(self, count: int) -> Dict[str, list]:
        """Shapes of what a decoder takes."""
        embedding = list(self._read(self.model.encoder, self._shapes).output(0).shape)
        shapes = {"embedding": embedding, "boxes": [count, 4]}
        if self.hinted:
            side = self.input_size // 2
            shapes.update(hints=[count, len(HINTS), side, side], kinds=[count, len(KINDS)])
        return shapes

    def _made(self, count: int) -> Requests:
        decoder = self._loaded(count)
        if not self._compared:
            self._compared = True
            deviation = self._compare(decoder, count)
            keep_deviation(self._cache, deviation.embedding, deviation.logits)
            self._judge(deviation)
        return decoder

    def _compare(self, decoder: Requests, count: int) -> Deviation:
        """With whatever number of boxes a decoder takes: compiling another one takes longer than all the rest."""
        reference = self._reference
        assert reference is not None, "a network without one is never compared"
        embedding = self._encoder([reference.image[None]])[0]
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
        return self._encoder([image[None]])[0]

    def decode(
        self,
        embedding: np.ndarray,
        boxes_uv: np.ndarray,
        hints: Optional[np.ndarray] = None,
        kinds: Optional[np.ndarray] = None,
    ) -> Tuple[np.ndarray, np.ndarray]:
        """See :class:`~qmedsam.network.Network`. Fixed shapes of 4 boxes and 1, compiled when first needed."""
        boxes = np.asarray(boxes_uv, np.float32) * self._scale
        logits, confidence = [], []
        for start, count in _blocks(len(boxes), self._SHAPES):
            part = slice(start, start + count)
            said = self.silence(count)
            if said and hints is not None:
                said[0] = np.asarray(hints[part], np.float32)
            if said and kinds is not None:
                said[1] = np.asarray(kinds[part], np.float32)
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


class Requests:
    """A compiled network and copies of it: whoever asks gets one that nobody asks, or waits for it.

    A run that was given up goes on until its slice ends while the next one starts, and streams ask side by side. A copy is made
    when callers had to wait :data:`PATIENCE` times, so that work with one queue holds one network.

    Args:
        compiled: OpenVINO's compiled model.
        one_more: loads it once more.
        most: how many, with the first.
    """

    def __init__(self, compiled: Any, one_more: Callable[[], Any], most: int) -> None:
        self._one_more, self._most = one_more, most
        self._lock, self._waited = threading.Lock(), 0
        self._free: queue.LifoQueue[Any] = queue.LifoQueue()
        self._free.put((compiled, None))  # a request is made when first taken: it holds its own tensors
        self.copies = 1

    def __call__(self, inputs: Sequence[np.ndarray]) -> List[np.ndarray]:
        """The outputs, copied: a request's own tensors change under the next one."""
        compiled, request = self._taken()
        try:
            if request is None:
                request = compiled.create_infer_request()
            # Copied: memory of Python's in a request would be let go of in any thread.
            for tensor, given in zip(request.input_tensors, inputs):
                np.copyto(tensor.data, given)
            request.infer(share_outputs=True)  # else they are copied once more
            return [tensor.data.copy() for tensor in request.output_tensors]
        finally:
            self._free.put((compiled, request))

    def _taken(self) -> Tuple[Any, Any]:
        with suppress(queue.Empty):
            return self._free.get_nowait()
        with self._lock:
            self._waited += 1
            wanted = self._waited > PATIENCE and self.copies < self._most
            if wanted:
                self._waited, self.copies = 0, self.copies + 1
        if wanted:
            try:
                return self._one_more(), None
            except QMedSAMError:  # no memory for one more: wait as before
                with self._lock:
                    self._most = self.copies = self.copies - 1
        return self._free.get()


def _blocks(count: int, shapes: Sequence[int]) -> Iterator[Tuple[int, int]]:
    """Where calls of whole shapes begin, and how many boxes each takes: six as 4 + 1 + 1."""
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
