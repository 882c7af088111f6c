"""The reference answer that an export puts into the model folder: see :mod:`qmedsam.network.reference`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

import numpy as np
import torch
from qmedsam.geometry import extent_of
from qmedsam.intensity import normalise
from qmedsam.network.reference import deviation, enlarged, samples, write
from torch import Tensor, nn

from .architectures.promptable import Promptable
from .evaluation import TorchNetwork
from .quantization import weights_quantized_once
from .synthesis import random_scene

FILE = "reference.npz"
#: Side of the stored picture: a synthetic scene, of which every network makes masks.
_SIDE = 64
#: Relative size of the noise that stands for sums taken in another order (float32 has 24 bits, its sums a few less).
_NOISE = 1e-6
#: Another machine may deviate by so many times what that noise makes of the network, and by so much in any case.
_TIMES, _LEAST = 4.0, 0.01


def reference_answer(model: Promptable, fields: Dict[str, Any]) -> Tuple[Callable[[Path], None], Dict[str, Any]]:
    """A stored input, the network's answer, and how far a machine's answer may be from it.

    An int8 network repeats the smallest difference as whole quantization steps, and layer after layer makes more of them: how far
    sound machines are apart is the network's own, and so measured here, as the answers under noise of float32's size behind
    every layer.

    Args:
        model: float or fake-quantized; the truth.
        fields: of the manifest.

    Returns:
        What writes the file into a folder, and the manifest's field ``reference``.
    """
    rng = np.random.default_rng(0)
    drawn, masks = random_scene(rng, _SIDE)
    kind = fields["normalization"]
    valid = np.ones(drawn.shape[:2], bool)
    image = normalise(np.clip(drawn, 0, 1), valid, kind["kind"], kind.get("mean", ()), kind.get("std", ()))
    scale, offset = float(image.max() - image.min()) / 255, float(image.min())
    stored = np.rint((image - offset) / scale).astype(np.uint8)
    size = fields["input_size"]
    shown = enlarged(stored, size) * np.float32(scale) + np.float32(offset)
    tight = (np.asarray(extent_of(masks[0] > 0.5)) + 0.5) * (size / _SIDE) - 0.5
    grown = np.clip(tight + np.array([-1, -1, 1, 1]) * 0.08 * size, -0.5, size - 0.5)
    boxes = np.stack([tight, grown]).astype(np.float32)
    with weights_quantized_once(model):  # or they would be anew in each of four runs
        truth = _answer(model, shown, size, boxes)
        expected = samples(*truth)
        furthest = [0.0, 0.0]
        for seed in range(3):
            with _disturbed(model, seed):
                found = samples(*_answer(model, shown, size, boxes))
            furthest = [max(most, deviation(f, e)) for most, f, e in zip(furthest, found, expected)]
    embedding, logits = (round(max(_LEAST, _TIMES * most), 4) for most in furthest)

    def put(folder: Path) -> None:
        write(folder / FILE, stored, scale, offset, boxes, truth)

    return put, {"file": FILE, "embedding": embedding, "logits": logits}


def _answer(model: Promptable, image: np.ndarray, size: int, boxes: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    network = TorchNetwork(model, size)
    embedding = network.encode(image.astype(np.float32))
    return embedding, network.decode(embedding, boxes)[0]


def _disturbed(model: nn.Module, seed: int) -> ExitStack:
    """A context in which every layer with weights puts out a little more or less than it computes."""
    generator = torch.Generator().manual_seed(seed)

    def disturb(_: nn.Module, __: Any, out: Tensor) -> Tensor:
        noise = torch.randn(out.shape, generator=generator).to(out.device, out.dtype)
        return out + noise * (_NOISE * out.std())

    stack = ExitStack()
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.LayerNorm)):
            handle = module.register_forward_hook(disturb)
            stack.callback(handle.remove)
    return stack
