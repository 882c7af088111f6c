"""Fully connected layers as convolutions: the same products, by kernels that are twice as fast where a processor has no VNNI.

There OpenVINO computes int8 products of tokens by an old GEMM that is no faster than float (30 to 36 GMAC/s a core of an AMD EPYC
7003, float 36 to 38); its int8 convolutions, one by one pixel wide, reach 70 to 74. With VNNI and AMX both are fast, but sums and
activations that follow are computed with a convolution alone (LiteMedSAM's encoder a tenth faster). Decision 0032.
"""

from __future__ import annotations

from typing import Any, Callable, List, Optional, Tuple

import numpy as np

#: Rows of a product from which it is rewritten: a decoder's few tokens pay, too.
LEAST_ROWS = 4


def as_convolutions(openvino: Any, graph: Any) -> int:
    """Rewrite the int8 fully connected layers of a graph of fixed shapes, in place; what is computed stays the same.

    Biases, activations and quantization that follow are moved along, so that they are computed with the product.

    Args:
        openvino: the imported package.
        graph: its model, reshaped.

    Returns:
        How many layers.
    """
    op, done = openvino.opset13, 0
    for node in graph.get_ordered_ops():
        found = _fully_connected(node) if node.get_type_name() == "MatMul" else None
        if found is None:
            continue
        weights, scales = found
        shape = list(node.output(0).shape)
        rows, outputs = int(np.prod(shape[:-1])), shape[-1]
        if rows < LEAST_ROWS:
            continue
        inputs = weights.size // outputs
        image = op.reshape(node.input_value(0), np.array([1, rows, 1, inputs]), False)
        kernels = op.multiply(
            op.convert(op.constant(weights.reshape(outputs, inputs, 1, 1)), "f32"), op.constant(scales.reshape(outputs, 1, 1, 1))
        )
        product = op.convolution(op.transpose(image, np.array([0, 3, 1, 2])), kernels, [1, 1], [0, 0], [0, 0], [1, 1])
        product.set_friendly_name(node.get_friendly_name())
        product, last = _followed(op, product, node.output(0), outputs)
        last.replace(op.reshape(op.transpose(product, np.array([0, 2, 3, 1])), np.array(shape), False).output(0))
        done += 1
    if done:
        graph.validate_nodes_and_infer_types()
    return done


def _fully_connected(node: Any) -> Optional[Tuple[np.ndarray, np.ndarray]]:
    """Weights ``N x K`` int8 and their scales, of a product ``x W^T`` with constant int8 weights; else None."""
    how, weights = node.get_attributes(), node.input_value(1).get_node()
    if how["transpose_a"] or not how["transpose_b"] or weights.get_type_name() != "Multiply":
        return None
    converted, scales = (weights.input_value(n).get_node() for n in (0, 1))
    if converted.get_type_name() != "Convert" or scales.get_type_name() != "Constant":
        return None
    constant = converted.input_value(0).get_node()
    if constant.get_type_name() != "Constant" or constant.get_element_type().get_type_name() != "i8":
        return None
    outputs = constant.shape[0]
    if len(constant.shape) != 2 or np.size(scales.data) not in (1, outputs) or node.output(0).partial_shape.is_dynamic:
        return None
    return np.ascontiguousarray(constant.data), np.broadcast_to(np.asarray(scales.data).reshape(-1), outputs).copy()


def _followed(op: Any, product: Any, last: Any, outputs: int) -> Tuple[Any, Any]:
    """What follows a product, one by one and value by value, done on the convolution; and the output that it replaces."""
    while True:
        users = list(last.get_target_inputs())
        if len(users) != 1:
            return product, last
        user, index = users[0].get_node(), users[0].get_index()
        constants = [value.get_source_output().get_node() for value in user.inputs() if value.get_index() != index]
        if any(one.get_type_name() != "Constant" for one in constants):
            return product, last
        build = _builder(op, user, [np.asarray(one.data) for one in constants], outputs, index)
        if build is None:
            return product, last
        product = build(product)
        product.set_friendly_name(user.get_friendly_name())
        last = user.output(0)


def _builder(op: Any, user: Any, values: List[np.ndarray], outputs: int, index: int) -> Optional[Callable[[Any], Any]]:
    kind = user.get_type_name()
    if kind in ("Add", "Multiply") and values[0].size in (1, outputs) and values[0].shape[-1:] in ((), (1,), (outputs,)):
        along = op.constant(values[0].reshape(1, -1, 1, 1))
        return lambda product: (op.add if kind == "Add" else op.multiply)(product, along)
    if kind == "Relu":
        return lambda product: op.relu(product)
    if kind == "Gelu":
        mode = user.get_attributes()["approximation_mode"].lower()
        return lambda product: op.gelu(product, mode)
    if kind == "FakeQuantize" and index == 0 and all(value.size == 1 for value in values):
        limits = [op.constant(value.reshape(())) for value in values]
        return lambda product: op.fake_quantize(product, *limits, user.get_attributes()["levels"])
    return None
