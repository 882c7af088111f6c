"""The two published ways to segment a case with LiteMedSAM, as baselines of :mod:`speed`.

Both ask every slice for the box as drawn. Slices are framed and masks brought back by this engine's own resampling, so that only
networks and loops differ.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from qmedsam.frames import Frame
from qmedsam.geometry import Box, View, Volume
from qmedsam.intensity import Intensity, normalise

#: Boxes that the QMedSAM paper decodes at the same time (its function's default).
BLOCK = 64


class Loop:
    """From a volume and boxes to labels; what a slice costs is left to the two ways.

    Args:
        volume: grey or RGB.
        size: of the network's square.
    """

    def __init__(self, volume: Volume, size: int) -> None:
        self.volume, self.view = volume, View.of(volume, 2)
        self.frame = Frame.whole_slice(self.view, size)
        self.intensity = Intensity.of(volume, "CT" if not volume.is_rgb else "")

    def image(self, index: int) -> np.ndarray:
        """``1 x 3 x S x S`` of a slice, as LiteMedSAM wants it: the whole slice, 0 to 1."""
        drawn, valid = self.frame.sample(self.view.slice_of(self.volume.array_kji, index), self.intensity.apply)
        return normalise(drawn, valid, "minmax", (), ())[None]

    def boxes_on(self, index: int, boxes: Sequence[Box]) -> List[Tuple[Box, Tuple[float, ...]]]:
        """Boxes that a slice cuts, and their rectangles in network pixels."""
        cuts = [(box, box.cut(self.view, index)) for box in boxes]
        return [(box, self.frame.to_network(self.view.clipped(cut))) for box, cut in cuts if cut is not None]

    def mask(self, logits: np.ndarray) -> np.ndarray:
        """Of the slice's full size, as both publications make it."""
        height, width = self.view.shape_yx
        return self.frame.restore(logits, (0, 0, width, height)) > 0


class TheChallenges:
    """PyTorch in float; every slice is encoded anew for every box (the challenge's published baseline).

    Args:
        checkpoint: LiteMedSAM's.
        threads: of PyTorch; 0 for all cores.
    """

    def __init__(self, checkpoint: Path, threads: int = 0) -> None:
        import torch
        from qmedsam_training.config import NetworkConfig
        from qmedsam_training.networks import start

        if threads:
            torch.set_num_threads(threads)
        self.torch = torch
        self.network = NetworkConfig(architecture="litemedsam", input_size=256)
        self.model = start(self.network, checkpoint)[0].eval()

    def segment(self, volume: Volume, boxes: Sequence[Box]) -> np.ndarray:
        """The labels, ``(k, j, i)``."""
        torch, loop = self.torch, Loop(volume, self.network.side)
        labels_kji = np.zeros(volume.array_kji.shape[:3], np.uint8)
        with torch.inference_mode():
            for n, box in enumerate(boxes, start=1):
                for index in box.slices(2, len(labels_kji)):
                    embedding = self.model.encode(torch.from_numpy(loop.image(index)))
                    ((_, rectangle),) = loop.boxes_on(index, [box])
                    logits = self.model.decode(embedding, torch.tensor([rectangle]))
                    labels_kji[index][loop.mask(logits[0].numpy())] = n
        return labels_kji


class ThePapers:
    """OpenVINO and a plain Brevitas export; a slice is encoded once, its boxes are decoded in blocks (QMedSAM, section 2.1).

    Args:
        folder: of :func:`plain_brevitas`.
        threads: of OpenVINO; 0 for all cores.
    """

    def __init__(self, folder: Path, threads: int = 0) -> None:
        from qmedsam.network.runtime import import_openvino

        core = import_openvino().Core()
        options: Dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        self.encoder, self.decoder = (
            core.compile_model(core.read_model(folder / f"{part}.xml"), "CPU", options) for part in ("encoder", "decoder")
        )

    def segment(self, volume: Volume, boxes: Sequence[Box]) -> np.ndarray:
        """The labels, ``(k, j, i)``."""
        loop = Loop(volume, self.encoder.input(0).shape[-1])
        labels_kji = np.zeros(volume.array_kji.shape[:3], np.uint8)
        numbers = {id(box): n for n, box in enumerate(boxes, start=1)}
        for index in range(len(labels_kji)):
            here = loop.boxes_on(index, boxes)
            if not here:
                continue
            embedding = self.encoder([loop.image(index)])[0]
            for start in range(0, len(here), BLOCK):
                block = here[start : start + BLOCK]
                logits = self.decoder([embedding, np.array([uv for _, uv in block], np.float32)])[0]
                masks = [loop.mask(one) for one in logits]  # all of a block at once, as the paper holds them
                for (box, _), mask in zip(block, masks):
                    labels_kji[index][mask] = numbers[id(box)]
        return labels_kji


def plain_brevitas(model: Any, architecture: str, folder: Path) -> None:
    """Encoder and decoder as the QMedSAM paper's pipeline exports them.

    Per-layer, narrow-range weights behind a Clip, batch normalisations not folded, nothing mended for OpenVINO.

    Args:
        model: a float network of the architecture; changed.
        architecture: its name.
        folder: gets ``encoder.xml`` and ``decoder.xml``.
    """
    import onnx
    from qmedsam.network.runtime import import_openvino
    from qmedsam_training import export
    from qmedsam_training.architectures import ARCHITECTURES
    from qmedsam_training.data import calibration_samples
    from qmedsam_training.quantization import Widths, calibrated, quantize
    from torch import nn

    # Norms stay where they are: wrapping them hides them from the check that ours must be folded.
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, _unfolded(child))
    quantize(model, widths=Widths(per_channel=False, narrow_range=True, overflow="none"))
    calibrated(model, calibration_samples(ARCHITECTURES[architecture], 2))
    mend, export.mend = export.mend, lambda graph: graph
    try:
        graphs = export.to_onnx(model, ARCHITECTURES[architecture].input_size, quantized=True)
    finally:
        export.mend = mend
    folder.mkdir(parents=True, exist_ok=True)
    ov = import_openvino()
    for part, graph in graphs.items():
        onnx.save(graph, folder / f"{part}.onnx")
        ov.save_model(ov.convert_model(folder / f"{part}.onnx"), folder / f"{part}.xml", compress_to_fp16=False)
        (folder / f"{part}.onnx").unlink()


def _unfolded(norm: Any) -> Any:
    """A batch normalisation as a scale and a shift, behind another class."""
    import torch
    from torch import nn

    class Unfolded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            self.register_buffer("scale", scale.detach()[:, None, None])
            self.register_buffer("shift", (norm.bias - norm.running_mean * scale).detach()[:, None, None])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale + self.shift

    return Unfolded()


def made(folder: Path, checkpoint: Optional[Path] = None) -> Path:
    """The folder of all that the rows load, made where it is missing: the checkpoint and three models of it."""
    import subprocess
    import sys

    from qmedsam_training import fetching
    from qmedsam_training.config import NetworkConfig
    from qmedsam_training.networks import start

    folder.mkdir(parents=True, exist_ok=True)
    weights = fetching.fetch("litemedsam", folder / "litemedsam.pth", checkpoint)
    for precision in ("float32", "int8"):  # calibrated on scenes: the weights' values change no speed
        if not (folder / f"litemedsam-{precision}" / "manifest.json").is_file():
            words = ["import-checkpoint", str(weights), "--architecture", "litemedsam", "--precision", precision, "--images", "4"]
            words += ["-o", str(folder / f"litemedsam-{precision}"), "--license", "Apache-2.0"]
            subprocess.run([sys.executable, "-m", "qmedsam_training", *words], check=True)
    if not (folder / "plain" / "decoder.xml").is_file():
        model, _ = start(NetworkConfig(architecture="litemedsam", input_size=256), weights)
        plain_brevitas(model.eval(), "litemedsam", folder / "plain")
    return folder
