"""The overflow certificate: what it says of graphs made by hand, of what is exported, and of what ships."""

from __future__ import annotations

from pathlib import Path
from typing import Optional, Tuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")
ov = pytest.importorskip("openvino")

from openvino import opset13 as op  # noqa: E402
from qmedsam import ModelStore, QMedSAMError  # noqa: E402
from qmedsam.models import shipped_folder  # noqa: E402
from qmedsam_training.architectures import build  # noqa: E402
from qmedsam_training.cli import app  # noqa: E402
from qmedsam_training.config import NetworkConfig, QuantizationConfig  # noqa: E402
from qmedsam_training.export import model_fields, write_model  # noqa: E402
from qmedsam_training.networks import quantize_parts  # noqa: E402
from qmedsam_training.overflow import Product, certificate, unsafe  # noqa: E402
from qmedsam_training.quantization import calibrated  # noqa: E402
from small import TINY, EncoderAlone, invoke  # noqa: E402

SIZE = 64


def _quantized(x, signed: bool, clamp: Optional[Tuple[float, float]] = None):
    low, high = (-128.0, 127.0) if signed else (0.0, 255.0)
    if clamp:
        x = op.clamp(x, *clamp)
    ends = [op.constant(np.float32(v)) for v in (low, high, low, high)]
    return op.multiply(op.fake_quantize(x, *ends, 256), op.constant(np.float32(0.5)))


def _one(result, parameters, folder: Path) -> Product:
    ov.save_model(ov.Model([result], parameters), folder / "graph.xml", compress_to_fp16=False)
    (product,) = certificate(folder / "graph.xml")
    return product


def _dequantized(weights: np.ndarray):
    return op.multiply(op.convert(op.constant(weights.astype(np.int8)), "f32"), op.constant(np.float32(0.1)))


@pytest.mark.parametrize(
    ("row", "signed", "safe"),
    [
        ([64, 64, -64, -64], True, True),  # 64 x 255 twice are 32,640
        ([65, 64, 0, 0], True, False),
        ([-64, 3, -65, 3], True, False),
        ([127, -128, 1, 0], True, True),  # of two signs they make each other smaller
        ([127, 2, 0, 0], False, False),
        ([127, 1, 0, 0], False, True),
    ],
)
@pytest.mark.parametrize("kind", ["Convolution", "MatMul", "MatMul transposed", "ConvolutionBackpropData"])
def test_two_weights_of_a_channel(kind: str, row, signed: bool, safe: bool, tmp_path: Path) -> None:
    others = np.array([[1, 2, 3, 4], [5, -6, 7, -8]])
    weights = np.concatenate([others, [row]])  # out x in
    if kind.startswith("MatMul"):
        x = op.parameter([5, 4], np.float32)
        transposed = kind.endswith("transposed")
        result = op.matmul(_quantized(x, signed), _dequantized(weights if transposed else weights.T), False, transposed)
    elif kind == "Convolution":
        x = op.parameter([1, 4, 6, 6], np.float32)
        result = op.convolution(_quantized(x, signed), _dequantized(weights[..., None, None]), [1, 1], [0, 0], [0, 0], [1, 1])
    else:
        if signed and (weights % 2).any():
            weights = np.concatenate([others * 2, [row]])
        x = op.parameter([1, 4, 6, 6], np.float32)
        factor = _dequantized(weights.T[..., None, None])
        result = op.convolution_backprop_data(_quantized(x, signed), factor, [1, 1], pads_begin=[0, 0], pads_end=[0, 0])
    product = _one(result, [x], tmp_path)
    assert (product.reach <= 1) == safe and (product.pairs > 0) != safe, product
    if kind == "ConvolutionBackpropData":
        assert product.halved == (signed and bool((np.array(row) % 2).any())), "odd weights lose a bit where they are halved"
    else:
        assert product.safe == safe


@pytest.mark.parametrize(
    ("first", "second", "safe"),
    [
        ((True, None), (True, None), False),
        ((True, None), (True, (-64.0, 63.0)), False),  # which one a kernel shifts is its own affair
        ((True, (-64.0, 63.0)), (True, (-64.0, 63.0)), True),
        ((False, None), (True, None), False),
        ((False, None), (True, (-64.0, 63.0)), True),
        ((False, (0.0, 127.0)), (True, None), False),
    ],
)
def test_two_activations(first, second, safe: bool, tmp_path: Path) -> None:
    a, b = op.parameter([2, 5, 8], np.float32), op.parameter([2, 7, 8], np.float32)
    transposed = op.transpose(_quantized(b, *second), op.constant(np.array([0, 2, 1])))
    product = _one(op.matmul(_quantized(a, *first), transposed, False, False), [a, b], tmp_path)
    assert product.safe == safe, product


def test_float_products_are_none_of_its_business(tmp_path: Path) -> None:
    x = op.parameter([5, 4], np.float32)
    result = op.matmul(_quantized(x, True), op.constant(np.full((4, 3), 99, np.float32)), False, False)
    ov.save_model(ov.Model([result], [x]), tmp_path / "graph.xml")
    assert certificate(tmp_path / "graph.xml") == []


def _exported(folder: Path, overflow: str, **options) -> Path:
    torch.manual_seed(0)
    model = build("qmedsam-compact", **TINY)
    how = QuantizationConfig(parts=["image_encoder"], overflow=overflow)
    quantize_parts(model, how, how.parts)
    image = torch.randn(2, 3, SIZE, SIZE), torch.tensor([[5.0, 8.0, 50.0, 44.0]] * 2), torch.arange(2)
    model = calibrated(EncoderAlone(model.image_encoder), [image])
    network = NetworkConfig(options=TINY, input_size=SIZE, quantization=how)
    return write_model(folder, model, model_fields(network, "tiny"), "# Tiny\n", **options)


def test_a_network_that_can_overflow_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(QMedSAMError, match=r"can overflow .*encoder: /image_encoder/.*times 16 bits") as refused:
        _exported(tmp_path / "tiny", "none")
    assert "overflow: channel" in refused.value.hint and list(tmp_path.iterdir()) == []
    folder = _exported(tmp_path / "tiny", "none", allow_overflow=True)
    bad = unsafe(certificate(folder / "encoder.xml"))
    assert len(bad) > 10 and bad[0].pairs >= bad[-1].pairs
    text = invoke(app, "census", folder)
    assert "can overflow without VNNI" in text and bad[0].name in text


@pytest.mark.parametrize("overflow", ["channel", "7bit"])
def test_what_is_written_cannot_overflow(overflow: str, tmp_path: Path) -> None:
    folder = _exported(tmp_path / "tiny", overflow)
    products = certificate(folder / "encoder.xml")
    assert len(products) > 10 and not unsafe(products) and max(p.reach for p in products) > 0.95
    assert "none of" in invoke(app, "census", folder, "--layers")


@pytest.mark.parametrize("model", ModelStore([shipped_folder()]).models(), ids=lambda m: m.name)
def test_the_shipped_models_cannot_overflow(model) -> None:
    encoder, decoder = certificate(model.encoder), certificate(model.decoder)
    assert model.manifest.precision != "int8" or (len(encoder) > 20 and len(decoder) > 40)
    assert not unsafe(encoder + decoder), [str(p) for p in unsafe(encoder + decoder)[:5]]
