"""The shipped implementation: OpenVINO on the CPU."""

from __future__ import annotations

import logging
import os
import sys
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

_log = logging.getLogger("QMedSAM")


def import_openvino() -> Any:
    """OpenVINO without its telemetry.

    ``import openvino`` reports to an analytics service when the package ``openvino-telemetry`` is installed (it is a
    declared dependency of the wheel; see openvino/tools/ovc/telemetry_utils.py). We install without it, and where
    somebody else installed it, the entry below makes its import fail, upon which OpenVINO uses its own stub.

    Raises:
        QMedSAMError: it is not installed, or its libraries do not load.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        if lacks_memory(error):
            raise QMedSAMError("There is not enough memory to load OpenVINO.", "Close other programs.") from error
        raise QMedSAMError(
            f"OpenVINO, which runs the network, cannot be loaded ({error}).",
            "Install it with: python -m pip install --no-deps 'openvino>=2025.3'",
        ) from error
    return openvino


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
        if not self._compared and kept:
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
