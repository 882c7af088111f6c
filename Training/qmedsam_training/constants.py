"""Large float constants of an OpenVINO graph by what they were computed from: OpenVINO computes them again when it loads.

Exporters fold everything that does not depend on an input. Of LiteMedSAM's int8 model that was half: a table of 196 x 196 biases
for each window attention, of which 196 differ, and the positions of 64 x 64 pixels, which are sines of a product.
"""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
from qmedsam.network.runtime import import_openvino
from torch import nn

#: Of the buffer that holds random frequencies, in the public checkpoints and so in our architectures.
_FREQUENCIES = "positional_encoding_gaussian_matrix"
#: Bytes below which a constant stays as it is.
_LARGE = 1 << 16
#: How far positions may be from the exporter's, which took another sine.
_ALIKE = 1e-5


def shrink_constants(graph: Any, network: nn.Module) -> int:
    """Replace what can be computed from less, in place.

    Args:
        graph: ``openvino.Model``.
        network: what was exported; knows what its positions are made of.

    Returns:
        How many bytes less its constants take.
    """
    gaussians = [value.cpu().numpy() for name, value in network.named_buffers() if name.endswith(_FREQUENCIES)]
    saved = 0
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type().get_type_name() != "f32":
            continue
        values = node.data
        if values.nbytes < _LARGE:
            continue
        smaller = _looked_up(values)
        for gaussian in gaussians:
            smaller = smaller or _sines(values, gaussian)
        if smaller is not None:
            saved += values.nbytes - sum(op.data.nbytes for op in _constants_behind(smaller))
            node.output(0).replace(smaller.output(0))
    return saved


def _looked_up(values: np.ndarray) -> Optional[Any]:
    """A table whose columns repeat, as its different columns and which one is where; exact. None where that saves little."""
    op = _opset()
    if values.ndim < 2:
        return None
    across = int(np.prod(values.shape[:-2]))
    columns, index = np.unique(values.reshape(across, -1), axis=1, return_inverse=True)
    kind = np.uint8 if columns.shape[1] <= 256 else np.uint16 if columns.shape[1] <= 65536 else np.uint32
    index = index.reshape(-1).astype(kind)
    if columns.nbytes + index.nbytes > values.nbytes / 2:
        return None
    place = op.convert(op.constant(index), "i32")
    found = op.gather(op.constant(columns), place, op.constant(np.int64(1)))
    return op.reshape(found, op.constant(np.array(values.shape, np.int64)), False)


def _sines(values: np.ndarray, gaussian: np.ndarray) -> Optional[Any]:
    """Random Fourier features of a square grid of pixels (SAM's positions); None of anything else.

    Args:
        values: any shape with a vector of ``2 F`` for each pixel, row by row, last.
        gaussian: ``2 x F``.
    """
    op = _opset()
    features = gaussian.shape[1]
    pixels = values.size // (2 * features)
    side = round(pixels**0.5)
    if values.shape[-1] != 2 * features or side * side != pixels:
        return None
    axis = (2 * (np.arange(side, dtype=np.float32) + np.float32(0.5)) / np.float32(side) - 1) * np.float32(2 * np.pi)
    angle = axis[None, :, None] * gaussian[0] + axis[:, None, None] * gaussian[1]
    expected = np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)
    if np.abs(expected.reshape(values.shape) - values).max() > _ALIKE:
        return None
    x, y = (op.constant(axis.reshape(shape)) for shape in ((1, side, 1), (side, 1, 1)))
    along, down = (op.constant(np.ascontiguousarray(row.reshape(1, 1, -1), np.float32)) for row in gaussian)
    turned = op.add(op.multiply(x, along), op.multiply(y, down))
    both = op.concat([op.sin(turned), op.cos(turned)], 2)
    return op.reshape(both, op.constant(np.array(values.shape, np.int64)), False)


def _constants_behind(node: Any) -> list:
    """All that a replacement is computed from."""
    found = []
    for source in node.inputs():
        behind = source.get_source_output().get_node()
        found += [behind] if behind.get_type_name() == "Constant" else _constants_behind(behind)
    return found


def _opset() -> Any:
    import_openvino()
    from openvino import opset13

    return opset13
