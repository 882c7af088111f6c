"""The other runtimes that a network is compared in, and how far they are from torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Iterable, Iterator, Optional, Tuple

import numpy as np
import onnx
import torch
from qmedsam.geometry import extent_of
from qmedsam.intensity import normalise
from qmedsam.models import Manifest, Model
from qmedsam.network import HINTS, KINDS, Network
from qmedsam.network.openvino_network import OpenVINONetwork
from qmedsam.network.reference import deviation

from .architectures.promptable import Promptable
from .evaluation import TorchNetwork
from .export import to_onnx
from .synthesis import random_scene

#: Beyond these something other than rounding differs. Sound ones stay within 0.02, 99.5 % and 0.01; overflowing products made
#: embeddings deviate by 0.1 to 0.2.
_MOST_EMBEDDING, _LEAST_ALIKE, _MOST_CONFIDENCE = 0.05, 0.98, 0.05
_SCENES = 4
Frames = Iterable[Tuple[np.ndarray, np.ndarray]]


class OnnxNetwork:
    """The mended ONNX graphs in ONNX Runtime: a second opinion on what OpenVINO computes.

    Args:
        graphs: ``encoder`` and ``decoder`` as :func:`~qmedsam_training.export.to_onnx` makes them.
        input_size: of the network.
        prompt_scale: see :class:`~qmedsam_training.architectures.promptable.Promptable`.
        threads: of the CPU, 0 for all.
    """

    block = 16
    depth_px = 0.0
    streams = 1

    def __init__(self, graphs: dict[str, onnx.ModelProto], input_size: int, prompt_scale: float = 1.0, threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self.input_size, self._scale = input_size, prompt_scale
        self._sessions = {
            name: onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
            for name, graph in graphs.items()
        }
        self.hinted = any(i.name == "hints" for i in self._sessions["decoder"].get_inputs())

    def encode(self, image: np.ndarray) -> np.ndarray:
        """``3 x S x S`` to ``1 x C x G x G``."""
        return self._sessions["encoder"].run(None, {"image": image[None]})[0]

    def decode(
        self,
        embedding: np.ndarray,
        boxes_uv: np.ndarray,
        hints: Optional[np.ndarray] = None,
        kinds: Optional[np.ndarray] = None,
    ) -> Tuple[np.ndarray, np.ndarray]:
        """Logits ``N x C x m x m`` and predicted IoU ``N x C``."""
        boxes = np.asarray(boxes_uv, np.float32) * np.float32(self._scale)
        inputs = {"embedding": embedding, "boxes": boxes}
        if self.hinted:
            side = self.input_size // 2
            inputs["hints"] = np.zeros((len(boxes), len(HINTS), side, side), np.float32) if hints is None else hints
            inputs["kinds"] = np.zeros((len(boxes), len(KINDS)), np.float32) if kinds is None else kinds
        logits, confidence = self._sessions["decoder"].run(None, inputs)
        count = len(boxes)
        return logits.reshape(count, -1, *logits.shape[-2:]), confidence.reshape(count, -1)


@dataclass(frozen=True)
class Difference:
    """Of two runtimes from image to mask: the largest over all frames, of shares of pixels their mean.

    Attributes:
        name: of the runtime.
        frames: how many were compared.
        embedding: of the encoder alone: root of the mean square of the differences, in standard deviations of the truth's.
        logits: the same of the decoder alone, given the truth's embedding.
        same_mask: share of the boxes' pixels on the same side of zero, each runtime's decoder behind its own encoder.
        confidence: largest difference of the predicted IoU (0..1, by which a 3D propagation stops), the same way.
        most_embedding: what the network allows the embedding.
    """

    name: str
    frames: int
    embedding: float
    logits: float
    same_mask: float
    confidence: float
    most_embedding: float

    @property
    def too_far(self) -> bool:
        """More than the roundings of an int8 network explain."""
        near = self.embedding <= self.most_embedding and self.same_mask >= _LEAST_ALIKE and self.confidence <= _MOST_CONFIDENCE
        return not near  # also where something is not a number

    def __str__(self) -> str:
        return (
            f"{self.name}, {self.frames} frames: embedding {self.embedding:.2%} off (at most {self.most_embedding:.1%}), logits "
            f"{self.logits:.2%}; image to mask {self.same_mask:.2%} of the boxes' pixels alike; confidence {self.confidence:.2g}"
        )


def parity(model: Promptable, folder: Path, frames: Optional[Frames] = None) -> list[Difference]:
    """A torch model against its exported folder in OpenVINO (f32 hint) and against its ONNX in ONNX Runtime.

    Int32 sums round once in a while to the other side than float sums do, so a few values of an int8 network differ by a
    quantization step, and more of them layer by layer.

    Args:
        model: float or fake-quantized.
        folder: model folder that was exported of it.
        frames: images ``3 x S x S`` as the network gets them and boxes ``N x 4`` on each; default: synthetic scenes.
    """
    exported = Model.read(folder)
    size = exported.manifest.input_size
    truth = TorchNetwork(model, size)
    others: list[tuple[str, Network]] = [("OpenVINO, f32 hint", OpenVINONetwork(exported, precision="f32"))]
    with torch.no_grad():
        graphs = to_onnx(model, size, exported.manifest.precision == "int8")
    others.append(("ONNX Runtime", OnnxNetwork(graphs, size, model.prompt_scale)))
    most = max(_MOST_EMBEDDING, exported.manifest.reference.get("embedding", 0.0))
    rows: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name, _ in others}
    for image, boxes in _scenes(exported.manifest) if frames is None else frames:
        embedding = truth.encode(image)
        inside = _inside(boxes, size // 2 if model.hints else truth.decode(embedding, boxes)[0].shape[-1], size)
        said = _said(inside) if model.hints else ()
        logits, confidence = truth.decode(embedding, boxes, *said)
        for name, network in others:
            there = network.encode(image)
            alone = network.decode(embedding, boxes, *said)[0]
            back, sure = network.decode(there, boxes, *said)
            alike = (back > 0) == (logits > 0)
            same = float(alike[np.broadcast_to(inside[:, None], alike.shape)].mean())
            far = float(np.abs(sure - confidence).max())
            rows[name].append((deviation(there, embedding), deviation(alone, logits), same, far))
    differences = []
    for name, found in rows.items():
        embeddings, alones, alike, unsure = zip(*found)
        differences.append(Difference(name, len(found), max(embeddings), max(alones), float(np.mean(alike)), max(unsure), most))
    return differences


def _scenes(manifest: Manifest) -> Iterator[Tuple[np.ndarray, np.ndarray]]:
    rng, kind = np.random.default_rng(0), manifest.normalization
    for _ in range(_SCENES):
        drawn, masks = random_scene(rng, manifest.input_size)
        valid = np.ones(drawn.shape[:2], bool)
        image = normalise(np.clip(drawn, 0, 1), valid, kind["kind"], kind.get("mean", ()), kind.get("std", ()))
        yield image, np.array([extent_of(mask > 0.5) for mask in masks], np.float32)


def _said(inside: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """Something of everything that can be said: a neighbour's mask, the present one, a stroke of each kind, every kind of box."""
    hints = np.zeros((len(inside), len(HINTS), *inside.shape[1:]), np.float32)
    hints[:, 0] = np.roll(inside, 3, axis=1) * 2.0 - 1
    hints[1::2, 1] = inside[1::2] * 2.0 - 1
    middle = inside.shape[-1] // 2
    hints[:, 2, middle : middle + 3, middle : middle + 3] = 1
    hints[:, 3, :3, :3] = 1
    return hints, np.eye(len(KINDS), dtype=np.float32)[np.arange(len(inside)) % len(KINDS)]


def _inside(boxes: np.ndarray, side: int, size: int) -> np.ndarray:
    """``N x m x m``: the pixels of masks whose centres lie in each box; of a box thinner than a pixel, all."""
    centers = (np.arange(side) + 0.5) * size / side - 0.5
    u0, v0, u1, v1 = (boxes[:, n, None, None] for n in range(4))
    inside = (centers >= u0) & (centers <= u1) & (centers[:, None] >= v0) & (centers[:, None] <= v1)
    return inside | ~inside.any(axis=(1, 2), keepdims=True)
