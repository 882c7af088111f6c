"""Constants that an export stores by what they are computed from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("openvino")

from qmedsam.network.runtime import import_openvino  # noqa: E402
from qmedsam_training.architectures.sam import RandomPositions, image_positions  # noqa: E402
from qmedsam_training.constants import shrink_constants  # noqa: E402

ov = import_openvino()
from openvino import opset13 as op  # noqa: E402


def _added(values: np.ndarray):
    """A graph that adds a constant to its input."""
    x = op.parameter(list(values.shape), np.float32)
    return ov.Model([op.add(x, op.constant(values))], [x])


def _computed(graph, values: np.ndarray) -> np.ndarray:
    return ov.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([np.zeros_like(values)])[0]


def test_a_table_of_few_different_columns_comes_back_exactly(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    biases, place = random.standard_normal((5, 196)).astype(np.float32), random.integers(0, 196, (196, 196))
    values = np.ascontiguousarray(biases[None][:, :, place])
    graph = _added(values)
    assert shrink_constants(graph, torch.nn.Identity()) > 0.9 * values.nbytes
    assert np.array_equal(_computed(graph, values), values)
    ov.save_model(graph, tmp_path / "g.xml", compress_to_fp16=False)
    assert (tmp_path / "g.bin").stat().st_size < 0.1 * values.nbytes, "saving must not compute it again"


def test_positions_come_back_as_sines() -> None:
    torch.manual_seed(3)
    positions = RandomPositions(128)
    values = np.ascontiguousarray(image_positions(positions).numpy())
    graph = _added(values)
    assert shrink_constants(graph, positions) > 0.98 * values.nbytes
    assert np.abs(_computed(graph, values) - values).max() < 1e-5


def test_what_is_neither_stays() -> None:
    values = np.random.default_rng(0).standard_normal((1, 64, 64, 256)).astype(np.float32)
    assert shrink_constants(_added(values), RandomPositions(128)) == 0
    assert shrink_constants(_added(np.zeros((2, 8), np.float32)), torch.nn.Identity()) == 0
