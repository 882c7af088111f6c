"""Mistakes in configurations, files and names: a sentence and a way out, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")

from qmedsam import QMedSAMError  # noqa: E402
from qmedsam_training import networks  # noqa: E402
from qmedsam_training.config import NetworkConfig  # noqa: E402
from qmedsam_training.quantization import quantized_layers  # noqa: E402

TINY = {"widths": [8, 16, 16, 24, 24], "depths": [1, 1, 1, 1], "embed": 16, "width": 32, "deep": 32}


#: All that holds layers of the two parts, but for one or two: quantizers take long to make.
ENCODER = [f"image_encoder.{name}" for name in ("stem", "stages", "lateral", "smooth")]
DECODER = [
    f"mask_decoder.{name}"
    for name in ("merge", "down", "context_down", "context_up", "local", "blocks", "lift", "refine", "upscale", "fine", "sharpen")
]


def _network(parts: list, skip: list) -> NetworkConfig:
    return NetworkConfig(options=TINY, quantization={"parts": parts, "skip": skip})


def test_skipping_reaches_into_what_holds_layers_and_refuses_what_changes_nothing() -> None:
    assert quantized_layers(networks.make(_network(["mask_decoder"], DECODER))) == 4, "of hyper and iou"
    for name in ("mask_decoder.prompt", "mask_decoder.nothing", "mask_decoder", "image_encoder.stem"):
        with pytest.raises(QMedSAMError, match=f"no layer.*{name.split('.')[-1]}"):
            networks.make(_network(["mask_decoder"], [name]))


def test_a_later_stage_may_skip_in_the_part_that_it_quantizes(tmp_path: Path) -> None:
    first, both = ["mask_decoder"], ["mask_decoder", "image_encoder"]
    networks.save(tmp_path / "first.pt", networks.make(_network(first, DECODER)), _network(first, DECODER))
    assert networks.start(_network(both, ENCODER + DECODER), tmp_path / "first.pt")[1] == ("image_encoder",)
    with pytest.raises(QMedSAMError, match="another way"):
        networks.start(_network(both, ENCODER), tmp_path / "first.pt")
