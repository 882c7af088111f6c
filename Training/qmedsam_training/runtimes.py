"""The other runtimes that a network is compared in, and how far they are from torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Tuple

import numpy as np
import onnx
import torch
from qmedsam.models import Model
from qmedsam.network import Network
from qmedsam.network.openvino_network import OpenVINONetwork

from .architectures.promptable import Promptable
from .evaluation import TorchNetwork
from .export import to_onnx

#: Beyond these something other than rounding differs: the shipped int8 network stays within 99.94 % and 0.002.
_LEAST_ALIKE, _MOST_CONFIDENCE = 0.99, 0.05


class OnnxNetwork:
    """The mended ONNX graphs in ONNX Runtime: a second opinion on what OpenVINO computes.

    Args:
        graphs: ``encoder`` and ``decoder`` as :func:`~qmedsam_training.export.to_onnx` makes them.
        input_size: of the network.
        prompt_scale: see :class:`~qmedsam_training.architectures.promptable.Promptable`.
        threads: of the CPU, 0 for all.
    """

    block = 16

    def __init__(self, graphs: dict[str, onnx.ModelProto], input_size: int, prompt_scale: float = 1.0, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.input_size, self._scale = input_size, prompt_scale
        self._sessions = {
            name: onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
            for name, graph in graphs.items()
        }

    def encode(self, image: np.ndarray) -> np.ndarray:
        """``3 x S x S`` to ``1 x C x G x G``."""
        return self._sessions["encoder"].run(None, {"image": image[None]})[0]

    def decode(self, embedding: np.ndarray, boxes_uv: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
        """Logits ``N x m x m`` and predicted IoU ``N``."""
        boxes = np.asarray(boxes_uv, np.float32) * np.float32(self._scale)
        logits, confidence = self._sessions["decoder"].run(None, {"embedding": embedding, "boxes": boxes})
        return logits, confidence


@dataclass(frozen=True)
class Difference:
    """Of two runtimes on the same image: largest and mean absolute difference, in shares of the largest value.

    The confidence (predicted IoU, 0..1, by which a 3D propagation stops) is compared as it is.
    """

    name: str
    embedding_max: float
    embedding_mean: float
    logits_max: float
    logits_mean: float
    same_mask: float  # share of pixels on the same side of zero
    confidence_max: float

    @property
    def too_far(self) -> bool:
        """More than the roundings of an int8 network explain."""
        return self.same_mask < _LEAST_ALIKE or self.confidence_max > _MOST_CONFIDENCE

    def __str__(self) -> str:
        return (
            f"{self.name}: embedding max {self.embedding_max:.2g}, mean {self.embedding_mean:.2g}; "
            f"logits max {self.logits_max:.2g}, mean {self.logits_mean:.2g}; {self.same_mask:.2%} of the pixels alike; "
            f"confidence max {self.confidence_max:.2g}"
        )


def parity(model: Promptable, folder: Path, seed: int = 0) -> list[Difference]:
    """A torch model against its exported folder in OpenVINO (f32 hint) and against its ONNX in ONNX Runtime.

    Int32 sums round once in a while to the other side than float sums do, so a few values of an int8 network differ by a
    quantization step; both decoders get torch's embedding, so that such a step does not grow on its way.

    Args:
        model: float or fake-quantized.
        folder: model folder that was exported of it.
        seed: of the image.
    """
    exported = Model.read(folder)
    size = exported.manifest.input_size
    truth = TorchNetwork(model, size)
    image = np.random.default_rng(seed).standard_normal((3, size, size), dtype=np.float32)
    boxes = np.array([[0.15, 0.2, 0.8, 0.7], [0.3, 0.3, 0.6, 0.9]], np.float32) * size
    embedding = truth.encode(image)
    logits, confidence = truth.decode(embedding, boxes)
    others: list[tuple[str, Network]] = [("OpenVINO, f32 hint", OpenVINONetwork(exported, precision="f32"))]
    with torch.no_grad():
        graphs = to_onnx(model, size, exported.manifest.precision == "int8")
    others.append(("ONNX Runtime", OnnxNetwork(graphs, size, model.prompt_scale)))
    rows = []
    for name, network in others:
        there = network.encode(image)
        back, sure = network.decode(embedding, boxes)
        off, wrong = np.abs(there - embedding) / np.abs(embedding).max(), np.abs(back - logits) / np.abs(logits).max()
        same = float(np.mean((back > 0) == (logits > 0)))
        shares = (float(v) for v in (off.max(), off.mean(), wrong.max(), wrong.mean()))
        rows.append(Difference(name, *shares, same, float(np.abs(sure - confidence).max())))
    return rows
