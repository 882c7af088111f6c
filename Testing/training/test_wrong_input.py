"""Mistakes in configurations, files and names: a sentence and a way out, never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")

from qmedsam import QMedSAMError  # noqa: E402
from qmedsam_training import networks  # noqa: E402
from qmedsam_training.config import NetworkConfig, QuantizationConfig  # noqa: E402
from qmedsam_training.quantization import quantized_layers  # noqa: E402

TINY = {"widths": [8, 16, 16, 24, 24], "depths": [1, 1, 1, 1], "embed": 16, "width": 32, "deep": 32}


def _layers(*skip: str, parts: tuple = ("mask_decoder",)) -> int:
    how = QuantizationConfig(parts=list(parts), skip=list(skip))
    return quantized_layers(networks.make(NetworkConfig(options=TINY, quantization=how)))


def test_skipping_reaches_into_what_holds_layers_and_refuses_what_changes_nothing() -> None:
    decoder, both = _layers(), _layers("mask_decoder.hyper")
    assert both == decoder - 2, "two linear layers"
    for name in ("mask_decoder.prompt", "mask_decoder.nothing", "mask_decoder", "image_encoder.stem"):
        with pytest.raises(QMedSAMError, match=f"no layer.*{name.split('.')[-1]}"):
            _layers(name)


def test_a_later_stage_may_skip_in_the_part_that_it_quantizes(tmp_path: Path) -> None:
    first = NetworkConfig(options=TINY, quantization={"parts": ["mask_decoder"], "skip": ["mask_decoder.hyper"]})
    networks.save(tmp_path / "first.pt", networks.make(first), first)
    both = {"parts": ["mask_decoder", "image_encoder"], "skip": ["image_encoder.stem", "mask_decoder.hyper"]}
    assert networks.start(NetworkConfig(options=TINY, quantization=both), tmp_path / "first.pt")[1] == ("image_encoder",)
    with pytest.raises(QMedSAMError, match="another way"):
        networks.start(NetworkConfig(options=TINY, quantization={**both, "skip": []}), tmp_path / "first.pt")
