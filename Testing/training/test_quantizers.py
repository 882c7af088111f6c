"""Widths and granularity of the quantizers, and what they leave in the exported graph."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")

from brevitas.core.stats import AbsPercentile  # noqa: E402
from brevitas.graph.calibrate import calibration_mode  # noqa: E402
from onnx import numpy_helper  # noqa: E402
from qmedsam import QMedSAMError  # noqa: E402
from qmedsam_training.architectures import build  # noqa: E402
from qmedsam_training.config import QuantizationConfig  # noqa: E402
from qmedsam_training.export import to_onnx  # noqa: E402
from qmedsam_training.networks import quantize_parts  # noqa: E402
from qmedsam_training.quantization import Percentile, Widths, calibrated, quantize, quantized_layers, weights_quantized_once  # noqa: E402
from small import TINY, EncoderAlone  # noqa: E402

SIZE = 64
ENCODER = ["image_encoder"]


def _batches(seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        yield torch.randn(2, 3, SIZE, SIZE, generator=generator), torch.tensor([[5.0, 8.0, 50.0, 44.0]] * 2), torch.arange(2)


def _quantized(how: QuantizationConfig) -> torch.nn.Module:
    """Not calibrated."""
    torch.manual_seed(0)
    model = build("qmedsam-compact", **TINY)
    quantize_parts(model, how, how.parts)
    return model


def _weights_of(model: torch.nn.Module) -> dict:
    """int8 initialisers that feed a DequantizeLinear, and their scales."""
    graph = to_onnx(model, SIZE, quantized=True)["encoder"].graph
    constants = {i.name: numpy_helper.to_array(i) for i in graph.initializer}
    constants.update({n.output[0]: numpy_helper.to_array(n.attribute[0].t) for n in graph.node if n.op_type == "Constant"})
    return {
        n.input[0]: (constants[n.input[0]], constants[n.input[1]])
        for n in graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] in constants
    }


@pytest.mark.parametrize(
    ("bits", "per_channel", "overflow", "reached"),
    [(8, True, "none", 127), (8, False, "none", 127), (8, True, "7bit", 63), (4, True, "channel", 7), (8, False, "channel", 64)],
)
def test_widths_and_granularity_reach_the_exported_graph(bits: int, per_channel: bool, overflow: str, reached: int) -> None:
    how = QuantizationConfig(parts=ENCODER, weight_bits=bits, per_channel=per_channel, overflow=overflow)
    weights = _weights_of(calibrated(EncoderAlone(_quantized(how).image_encoder), _batches()))
    assert len(weights) > 10
    for values, scale in weights.values():
        largest = np.abs(values.astype(int)).max()
        assert values.dtype == np.int8 and largest >= reached, "the range is used"
        assert overflow == "channel" or largest <= reached + 1
        assert scale.size == (len(values) if per_channel else 1)


def test_a_channel_is_shrunk_just_until_any_two_of_its_weights_fit() -> None:
    weights = _weights_of(calibrated(EncoderAlone(_quantized(QuantizationConfig(parts=ENCODER)).image_encoder), _batches()))
    sums = []
    for values, _ in weights.values():
        rows = np.sort(values.reshape(len(values), -1).astype(int), axis=1)
        sums += np.maximum(rows[:, -2:].sum(axis=1), -rows[:, :2].sum(axis=1)).tolist()
    assert max(sums) * 255 <= 2**15 - 1, "no two products leave 16 bits"
    assert min(sums) >= 127, "and none is shrunk further than that"
    assert max(np.abs(values.astype(int)).max() for values, _ in weights.values()) > 64, "7 bits for all would be less"


def test_a_transposed_convolution_equals_its_convolution_and_shuffle() -> None:
    torch.manual_seed(0)
    layer = torch.nn.ConvTranspose2d(6, 5, 2, 2)
    quantized = quantize(torch.nn.Sequential(layer), widths=Widths(overflow="none"))
    image = torch.randn(2, 6, 7, 9)
    with torch.no_grad(), calibration_mode(quantized):
        found = quantized(image)
        assert torch.allclose(found, layer(image), atol=0.02) and found.shape == (2, 5, 14, 18)
    with pytest.raises(ValueError, match="transposed"):
        quantize(torch.nn.Sequential(torch.nn.ConvTranspose2d(6, 5, 3, 2)))


def test_fewer_bits_lose_more() -> None:
    torch.manual_seed(0)
    image, box = torch.randn(1, 3, SIZE, SIZE), torch.tensor([[8.0, 8.0, 50.0, 50.0]])
    torch.manual_seed(0)
    truth, errors = build("qmedsam-compact", **TINY).eval(), []
    with torch.no_grad():
        for bits in (8, 6, 4):
            parts = ENCODER if bits > 4 else [*ENCODER, "mask_decoder"]
            model = calibrated(_quantized(QuantizationConfig(parts=parts, weight_bits=bits, activation_bits=bits)), _batches())
            errors.append(float((model.encode(image) - truth.encode(image)).abs().mean()))
        assert model.decode(model.encode(image), box).isfinite().all()
    assert errors[0] * 2 < errors[1] < errors[2] / 2, errors


def test_only_the_named_parts_and_layers_are_quantized() -> None:
    encoder = quantized_layers(_quantized(QuantizationConfig(parts=ENCODER)))
    both = quantized_layers(_quantized(QuantizationConfig()))
    less = quantized_layers(_quantized(QuantizationConfig(parts=ENCODER, skip=["image_encoder.stem.conv"])))
    assert 0 < less == encoder - 1 < encoder < both
    for wrong in ({"parts": ["encoder"]}, {"skip": ["image_encoder.nothing"]}):
        with pytest.raises(QMedSAMError, match="no "):
            _quantized(QuantizationConfig(**wrong))


def test_calibrating_a_part_leaves_the_others_scales() -> None:
    how = QuantizationConfig(parts=ENCODER)
    model = calibrated(_quantized(how), _batches())
    before = {k: v.clone() for k, v in model.image_encoder.state_dict().items()}
    quantize_parts(model, how, ["mask_decoder"])
    calibrated(model, _batches(1), ["mask_decoder"])
    assert all(torch.equal(v, before[k]) for k, v in model.image_encoder.state_dict().items())
    assert any(k.endswith("scaling_impl.value") for k in model.mask_decoder.state_dict())


def test_the_scale_of_activations_is_brevitas_percentile() -> None:
    """Of the few largest values alone: the same number; of huge activations, of an evenly spread part."""
    ours, theirs = Percentile(99.999), AbsPercentile(99.999, None)
    random = torch.Generator().manual_seed(0)
    for count in (1, 7, 1000, 49_999, 50_000, 50_001, 300_000, Percentile.MOST):
        values = torch.randn(count, generator=random)
        assert ours(values) == theirs(values), count
    values = torch.randn(3 * Percentile.MOST + 5, generator=random)
    assert ours(values) == pytest.approx(float(theirs(values)), rel=0.05)


def test_weights_that_are_quantized_once_give_the_same_answer_and_stay_as_they_were() -> None:
    model = calibrated(_quantized(QuantizationConfig()), _batches())
    before = {name: value.clone() for name, value in model.named_parameters()}
    sample = next(iter(_batches(1)))
    with torch.no_grad():
        plain = model(*sample)
        with weights_quantized_once(model):
            once = model(*sample)
        again = model(*sample)
    for a, b, c in zip(plain, once, again):
        assert torch.allclose(a, b, atol=1e-4 * float(a.std())) and torch.equal(a, c)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
