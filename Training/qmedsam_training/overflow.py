"""The overflow certificate: no int8 product of a graph can leave 16 bits on any processor. Read from the IR alone.

Processors without VNNI (Intel before its 10th generation's "Ice Lake", AMD before Zen 4) multiply unsigned with signed bytes
and add two neighbouring products in 16 bits, where they saturate. Which two are neighbours is the kernel's own affair, so here
any two of one sum may be. What enters a product signed is shifted to unsigned by the kernel (128 is added).

    * weights: the two largest of the same sign in an output channel, times the largest unsigned activation;
    * two activations: twice the largest shifted value of one times the largest of the other, whichever is the one that the
      kernel shifts;
    * transposed convolutions with a signed input: AVX-512 kernels halve the weights to make room, so they must be even.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, List, Optional, Tuple

import numpy as np
from qmedsam.network.runtime import import_openvino

#: What a sum of two products may reach.
_MOST, _LEAST = 2**15 - 1, -(2**15)
#: Operations that multiply, and which axes of their weights count output channels.
_CHANNEL_AXES = {
    "Convolution": (0,),
    "GroupConvolution": (0, 1),
    "ConvolutionBackpropData": (1,),
    "GroupConvolutionBackpropData": (0, 2),
}
_TRANSPOSED = ("ConvolutionBackpropData", "GroupConvolutionBackpropData")
#: Operations that int8 passes through: OpenVINO moves the dequantization behind them.
_PASSED = (
    *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Broadcast", "Slice", "StridedSlice", "Split", "VariadicSplit", "Gather"),
    *("Relu", "PRelu", "MaxPool", "AvgPool", "Interpolate", "Pad", "DepthToSpace", "SpaceToDepth", "ShuffleChannels", "Tile"),
    *("Add", "Concat", "Multiply", "Subtract", "Convert", "Clamp", "ReduceMax", "ReduceMin", "ReduceMean", "BatchToSpace"),
)
#: Of them, those that scale or shift by a constant, which may be either input.
_SCALED = ("Add", "Multiply", "Subtract")


@dataclass(frozen=True)
class Product:
    """An int8 product and how near to 16 bits two of its terms come.

    Attributes:
        name: of the layer.
        kind: of the operation.
        reach: largest possible sum of two products in shares of what 16 bits hold: above 1 it can overflow.
        pairs: share of the pairs of its channels' weights that can overflow (1 or 0 for products of two activations).
        halved: its weights lose their last bit where a kernel halves them.
    """

    name: str
    kind: str
    reach: float
    pairs: float
    halved: bool = False

    @property
    def safe(self) -> bool:
        """Every processor computes the same."""
        return self.reach <= 1 and not self.halved

    def __str__(self) -> str:
        if self.reach > 1:
            return f"{self.name} ({self.reach:.2f} times 16 bits, {self.pairs:.1%} of its pairs)"
        return f"{self.name} (odd weights with a signed input)" if self.halved else f"{self.name} ({self.reach:.2f} of 16 bits)"


@dataclass(frozen=True)
class _Integers:
    """What a factor can be in int8: its range, and for weights the values themselves."""

    low: int
    high: int
    values: Optional[np.ndarray] = None

    @property
    def shifted(self) -> int:
        """The largest value as an unsigned byte."""
        return self.high + 128 if self.low < 0 else self.high

    @property
    def fits_signed(self) -> bool:
        return self.high < 128


def certificate(ir: Path) -> List[Product]:
    """Every product of a graph that a kernel may compute in int8, as it stands in the file.

    Args:
        ir: OpenVINO's ``.xml``.
    """
    products = []
    for op in import_openvino().Core().read_model(ir).get_ordered_ops():
        kind = op.get_type_name()
        if kind not in _CHANNEL_AXES and kind != "MatMul":
            continue
        first, second = (_integers(op.input_value(n)) for n in (0, 1))
        if first is None or second is None:
            continue  # a float product
        if first.values is None and second.values is None:
            reach = _of_activations(first, second)
            products.append(Product(op.get_friendly_name(), kind, reach, float(reach > 1)))
            continue
        weights, activation = (first, second) if second.values is None else (second, first)
        values = weights.values
        assert values is not None  # of two activations it was said above
        reach, pairs = _of_weights(_rows(op, values, weights is second), activation.shifted)
        halved = kind in _TRANSPOSED and activation.low < 0 and bool((values % 2).any())
        products.append(Product(op.get_friendly_name(), kind, reach, pairs, halved))
    return products


def unsafe(products: List[Product]) -> List[Product]:
    """Those that can overflow, the worst first."""
    return sorted((p for p in products if not p.safe), key=lambda p: (-p.pairs, -p.reach))


def _of_activations(first: _Integers, second: _Integers) -> float:
    """The kernel shifts one of them, and the other one has to fit a signed byte; where neither does, it cannot be int8."""
    sums = [0.0]
    for unsigned, signed in ((first, second), (second, first)):
        if signed.fits_signed:
            sums += [2 * unsigned.shifted * signed.high / _MOST, 2 * unsigned.shifted * signed.low / _LEAST]
    return max(sums)


def _of_weights(rows: np.ndarray, activation: int) -> Tuple[float, float]:
    """The largest sum of two terms of a channel (row), and the share of all pairs of which it is too large."""
    rows = np.sort(rows.astype(np.int64), axis=1)
    if rows.shape[1] == 1:
        rows = np.pad(rows, ((0, 0), (0, 1)))  # alone, it is added to nothing
    up, down = np.maximum(rows[:, -2:], 0).sum(axis=1).max(), np.minimum(rows[:, :2], 0).sum(axis=1).min()
    reach = float(max(up * activation / _MOST, down * activation / _LEAST))
    if reach <= 1:
        return reach, 0.0
    most, least, count = _MOST // activation, -(-_LEAST // activation), rows.shape[1]
    wrong = 0
    for row in rows:  # of either sign: partners of every weight that make the sum too large, itself not counted, each pair twice
        for values, limit in ((row, most), (-row[::-1], -least)):
            partners = count - np.searchsorted(values, limit - values, side="right")
            wrong += int(partners.sum()) - int((2 * values > limit).sum())
    return reach, wrong / (len(rows) * count * (count - 1))


def _rows(op: Any, values: np.ndarray, second: bool) -> np.ndarray:
    """Weights with a row per output channel."""
    axes = _CHANNEL_AXES.get(op.get_type_name())
    if axes is None:
        values = np.atleast_2d(values)
        transposed = op.get_attributes()["transpose_b" if second else "transpose_a"]
        summed = values.ndim - (1 if transposed == second else 2)  # b: rows are summed over unless transposed
        axes = tuple(axis for axis in range(values.ndim) if axis != summed)
    values = np.moveaxis(values, axes, range(len(axes)))
    return values.reshape(int(np.prod(values.shape[: len(axes)])), -1)


def _integers(output: Any) -> Optional[_Integers]:
    """What arrives at a factor as int8; None where it is float for certain."""
    op = output.get_node()
    kind = op.get_type_name()
    if kind == "Constant":
        if op.get_element_type().get_type_name() not in ("i8", "u8"):
            return None
        values = op.get_data()
        return _Integers(int(values.min()), int(values.max()), values)
    if kind == "FakeQuantize":
        return _quantized(op)
    if kind == "Concat":
        parts = [_integers(value) for value in op.input_values()]
        if all(part is None for part in parts):
            return None
        known = [part for part in parts if part is not None]
        return _Integers(min(p.low for p in known), max(p.high for p in known))
    if kind not in _PASSED:
        return None
    inputs = op.input_values()
    data = [value for value in inputs if value.get_node().get_type_name() != "Constant"]
    if kind == "Add" and len(data) > 1:
        return None  # a sum of two is float until it is quantized again
    inside = _integers(data[0] if kind in _SCALED and data else inputs[0])
    if inside is None:
        return None
    if inside.values is None:
        return inside
    return _moved(op, inside, inside.values)


def _moved(op: Any, weights: _Integers, values: np.ndarray) -> _Integers:
    """Weights behind an operation: where it moves them about, only their range is known, as of an activation in their place."""
    if op.get_type_name() in ("Multiply", "Subtract", "Convert"):
        return weights
    if op.get_type_name() == "Reshape":
        return _Integers(weights.low, weights.high, values.reshape(list(op.get_output_shape(0))))
    if op.get_type_name() == "Transpose":
        order = op.input_value(1).get_node().get_data().tolist()
        return _Integers(weights.low, weights.high, values.transpose(order))
    return _Integers(weights.low, weights.high)


def _quantized(op: Any) -> Optional[_Integers]:
    """Of a FakeQuantize: its levels, narrowed by a Clamp before it; None for more than 8 bits."""
    levels = op.get_attributes()["levels"]
    if levels > 256:
        return None
    ends = [op.input_value(n).get_node() for n in range(1, 5)]
    if any(end.get_type_name() != "Constant" for end in ends):
        return _Integers(-128, 127)
    least, most, low, high = (end.get_data().astype(np.float64) for end in ends)
    signed = bool((low < 0).any())
    first = -(levels // 2) if signed else 0
    clamp = op.input_value(0).get_node()
    # With a zero point somewhere else than in the middle a level says nothing of what the byte is.
    if clamp.get_type_name() != "Clamp" or (signed and not (np.abs(low + high) <= 1.01 * (high - low) / (levels - 1)).all()):
        return _Integers(first, first + levels - 1)
    limits = clamp.get_attributes()
    lowest, highest = (
        np.rint((np.clip(limits[name], least, most) - least) / (most - least) * (levels - 1)) for name in ("min", "max")
    )
    return _Integers(first + int(lowest.min()), first + int(highest.max()))
