"""Any float network of :mod:`~qmedsam_training.architectures` into its quantization-aware form, with Brevitas.

One definition serves both: a float network is built, trained, its batch normalisations are folded, and then every
Conv2d, ConvTranspose2d and Linear is *replaced* by Brevitas' quantized layer holding the same weights, and every point
that marks a factor of an attention product by a quantizer. Biases, norms, activations and prompt encoder stay float
(QMedSAM paper, section 2.2).

Departures from the published code, each with its reason (measured; see Docs/Decisions):
    * weights per channel and *full range* (-128..127): a narrow range exports a Clip between the int8 weights and their
      DequantizeLinear, and OpenVINO then silently runs the layer in float;
    * softmax output unsigned: signed int8 wastes half of its range there;
    * batch normalisation folded before quantization, so that what is quantized is what is deployed.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Iterable, Iterator, Optional, Sequence, Tuple

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .architectures.marks import KeptFloat, SignedPoint, UnsignedPoint


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Fold every convolution's batch normalisation into it, in place. The result equals ``model.eval()``.

    A pair is a module with the children ``conv`` and ``norm``, or ``c`` and ``bn`` (the public checkpoints' names).
    """
    model.eval()
    for module in list(model.modules()):
        for conv, norm in (("conv", "norm"), ("c", "bn")):
            pair = getattr(module, conv, None), getattr(module, norm, None)
            if isinstance(pair[0], nn.Conv2d) and isinstance(pair[1], nn.BatchNorm2d):
                setattr(module, conv, fuse_conv_bn_eval(*pair))
                setattr(module, norm, nn.Identity())
    return model


@dataclass(frozen=True)
class Widths:
    """Bits and granularity of the quantizers.

    Args:
        weight, activation: bits. Below 8 the values are still stored and multiplied as int8: an experiment in accuracy.
        per_channel: a weight scale per output channel instead of one per layer (the paper's).
        narrow_range: weights in -127..127, as Brevitas' default and the paper have it; only for comparisons, see above.
    """

    weight: int = 8
    activation: int = 8
    per_channel: bool = True
    narrow_range: bool = False


def quantize(model: nn.Module, skip: Sequence[str] = (), widths: Widths = Widths()) -> nn.Module:
    """Replace the layers of a folded float network, or of a part of one, by quantized ones, in place.

    Args:
        model: batch normalisations already folded (:func:`fold_batch_norms`).
        skip: dotted names of layers, or of what holds layers, to leave float (the image's first convolution, where accuracy
            needs it).
        widths: of the quantizers.

    Raises:
        ValueError: a batch normalisation is left, or a name in ``skip`` leaves nothing float that would not be so anyway.
    """
    from brevitas import config

    config.IGNORE_MISSING_KEYS = True  # a float checkpoint has no scales; they come from statistics
    if any(isinstance(m, nn.BatchNorm2d) for m in model.modules()):
        raise ValueError("Fold the batch normalisations before quantizing.")
    layers = list(_replaceable(model))
    useless = [name for name in skip if not any(_within(path, name) for *_, path in layers)]
    if useless:
        raise ValueError(f"{', '.join(useless)} holds nothing that would be quantized.")
    for owner, name, child, path in layers:
        if not any(_within(path, skipped) for skipped in skip):
            setattr(owner, name, _quantized(child, widths))
    return model


@torch.no_grad()
def calibrated(
    model: nn.Module,
    samples: Iterable[Tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    parts: Optional[Sequence[str]] = None,
) -> nn.Module:
    """Initialise activation scales from run-time statistics (QMedSAM paper, section 2.2), in place; no weight moves.

    Args:
        model: quantized.
        samples: images ``B x 3 x S x S``, boxes ``N x 4`` and the image of each box ``N``.
        parts: children to calibrate; the others keep the scales they have and quantize as usual. Default: all.
    """
    from brevitas.graph.calibrate import calibration_mode

    model.eval()
    with ExitStack() as stack:
        for part in [model] if parts is None else [getattr(model, name) for name in parts]:
            stack.enter_context(calibration_mode(part))
        for images, boxes, image_of_box in samples:
            model(images, boxes, image_of_box)
    return model.eval()


def quantized_layers(model: nn.Module) -> int:
    """How many layers and factors of products carry a quantizer."""
    from brevitas.nn.mixin import QuantLayerMixin

    return sum(isinstance(m, QuantLayerMixin) for m in model.modules())


def _within(path: str, name: str) -> bool:
    return path == name or path.startswith(name + ".")


def _replaceable(model: nn.Module, prefix: str = "") -> Iterator[Tuple[nn.Module, str, nn.Module, str]]:
    for name, child in model.named_children():
        path = f"{prefix}{name}"
        if isinstance(child, KeptFloat):
            continue
        if isinstance(child, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, SignedPoint, UnsignedPoint)):
            yield model, name, child, path
        else:
            yield from _replaceable(child, path + ".")


def _quantized(layer: nn.Module, widths: Widths) -> nn.Module:
    from brevitas import nn as qnn
    from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat, Int8WeightPerTensorFloat, Uint8ActPerTensorFloat

    class Weight(Int8WeightPerChannelFloat if widths.per_channel else Int8WeightPerTensorFloat):
        narrow_range = widths.narrow_range
        bit_width = widths.weight

    class Signed(Int8ActPerTensorFloat):
        bit_width = widths.activation

    class Unsigned(Uint8ActPerTensorFloat):
        bit_width = widths.activation

    if isinstance(layer, SignedPoint):
        return qnn.QuantIdentity(act_quant=Signed)
    if isinstance(layer, UnsignedPoint):
        return qnn.QuantIdentity(act_quant=Unsigned)
    shared = {"bias": layer.bias is not None, "weight_quant": Weight, "input_quant": Signed}
    if isinstance(layer, nn.Linear):
        new = qnn.QuantLinear(layer.in_features, layer.out_features, **shared)
    else:
        kind = qnn.QuantConvTranspose2d if isinstance(layer, nn.ConvTranspose2d) else qnn.QuantConv2d
        new = kind(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            groups=layer.groups,
            **shared,
        )
    with torch.no_grad():
        new.weight.copy_(layer.weight)
        if layer.bias is not None:
            new.bias.copy_(layer.bias)
    return new
