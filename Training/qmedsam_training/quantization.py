"""Any float network of :mod:`~qmedsam_training.architectures` into its quantization-aware form, with Brevitas.

One definition serves both: a float network is built, trained, its batch normalisations are folded, and then every
Conv2d, ConvTranspose2d and Linear is *replaced* by Brevitas' quantized layer holding the same weights, and every point
that marks a factor of an attention product by a quantizer. Biases, norms, activations and prompt encoder stay float
(QMedSAM paper, section 2.2).

Departures from the published code, each with its reason (measured; see Docs/Decisions):
    * weights per channel and *full range* (-128..127): a narrow range exports a Clip between the int8 weights and their
      DequantizeLinear, and OpenVINO then silently runs the layer in float;
    * softmax output unsigned: signed int8 wastes half of its range there;
    * batch normalisation folded before quantization, so that what is quantized is what is deployed;
    * no product that can overflow 16 bits, see :class:`Widths`; :mod:`~qmedsam_training.overflow` proves it of the graph.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Iterator, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .architectures.marks import KeptFloat, SignedPoint, UnsignedPoint


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Fold every convolution's batch normalisation into it, in place. The result equals ``model.eval()``.

    A pair is a module with the children ``conv`` and ``norm``, or ``c`` and ``bn`` (the public checkpoints' names).
    """
    model.eval()
    for module in list(model.modules()):
        for conv, norm in (("conv", "norm"), ("c", "bn")):
            first, second = getattr(module, conv, None), getattr(module, norm, None)
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                setattr(module, conv, fuse_conv_bn_eval(first, second))
                setattr(module, norm, nn.Identity())
    return model


@dataclass(frozen=True)
class Widths:
    """Bits and granularity of the quantizers.

    Args:
        weight, activation: bits. Below 8 the values are still stored and multiplied as int8: an experiment in accuracy.
        per_channel: a weight scale per output channel instead of one per layer (the paper's).
        narrow_range: weights in -127..127, as Brevitas' default and the paper have it; only for comparisons, see above.
        overflow: processors without VNNI add two neighbouring products of an unsigned and a signed byte in 16 bits, and
            saturate. ``channel``: every output channel's weights are scaled down just until its two largest of the same sign
            fit (:class:`PairMax`); ``7bit``: all weights in 7 bits; ``none``: 8 bits, whatever a processor makes of them.
            Signed factors of products of two activations have 7 bits unless ``none``.
    """

    weight: int = 8
    activation: int = 8
    per_channel: bool = True
    narrow_range: bool = False
    overflow: str = "channel"

    @property
    def weight_bits(self) -> int:
        """Of the weights."""
        return min(self.weight, 7) if self.overflow == "7bit" else self.weight

    @property
    def factor_bits(self) -> int:
        """Of a signed factor of a product of two activations."""
        return self.activation if self.overflow == "none" else min(self.activation, 7)


class PairMax(nn.Module):
    """A statistic for the scale of weights that cannot overflow: the largest sum of two of the same sign in a channel.

    As the largest of the range -128..127, it leaves ``w1 + w2 <= 128`` of any two weights that a kernel may add, each times
    an unsigned byte: ``128 x 255 = 32,640``. A channel of one weight, or of one that stands out, keeps (nearly) all 8 bits.

    Args:
        stats_reduce_dim: None for a scale per layer, as Brevitas' own statistics have it.
        keepdim: the same.
    """

    #: The sum must stay below 128 however the division by the scale rounds.
    _MARGIN = 1 + 1e-5

    def __init__(self, stats_reduce_dim: Optional[int] = None, keepdim: bool = False) -> None:
        super().__init__()
        self.dim, self.keepdim = stats_reduce_dim, keepdim

    def forward(self, weights: Tensor) -> Tensor:
        """Weights with a row per output channel (or all in one) to one value per channel (or one)."""
        rows, dim = (weights.flatten(), 0) if self.dim is None else (weights, self.dim)
        two = min(2, rows.shape[dim])
        up, down = (side.clamp(min=0).topk(two, dim).values.sum(dim, self.keepdim) for side in (rows, -rows))
        return torch.maximum(up, down) * self._MARGIN


class Percentile(nn.Module):
    """A statistic for the scale of activations: the value that all but a hundred-thousandth of them stay below.

    What Brevitas' own does, by the few largest values alone (it sorts by halves through all of them, which was half of a large
    network's calibration), and of huge activations by an evenly spread part.

    Args:
        high_percentile_q: per cent.
        stats_reduce_dim: None; activations have one scale.
    """

    #: Values looked at, at most.
    MOST = 1 << 20

    def __init__(self, high_percentile_q: float, stats_reduce_dim: Optional[int] = None, keepdim: bool = False) -> None:
        super().__init__()
        if stats_reduce_dim is not None:
            raise ValueError("Activations are quantized with one scale for all.")
        self.share = 1 - high_percentile_q / 100

    def forward(self, values: Tensor) -> Tensor:
        """Of a tensor of any shape; one value."""
        flat = values.reshape(-1)
        sizes = flat[:: -(-len(flat) // self.MOST)].abs()
        return sizes.topk(max(len(sizes) - int(len(sizes) * (1 - self.share) + 0.5), 0) + 1).values[-1]


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
    samples: Iterable[Tuple[torch.Tensor, ...]],
    parts: Optional[Sequence[str]] = None,
    ask: Optional[Callable[..., object]] = None,
) -> nn.Module:
    """Initialise activation scales from run-time statistics (QMedSAM paper, section 2.2), in place; no weight moves.

    Args:
        model: quantized.
        samples: images ``B x 3 x S x S``, boxes ``N x 4``, the image of each box ``N`` and, for a network that takes them, hints
            and kinds.
        parts: children to calibrate; the others keep the scales they have and quantize as usual. Default: all.
        ask: what is called with a sample, where it is not the whole model; it takes what a sample holds then.
    """
    from brevitas.graph.calibrate import calibration_mode

    model.eval()
    with ExitStack() as stack:
        for part in [model] if parts is None else [getattr(model, name) for name in parts]:
            stack.enter_context(calibration_mode(part))
        for sample in samples:
            (ask or model)(*sample)
    return model.eval()


@contextmanager
def weights_quantized_once(model: nn.Module) -> Iterator[None]:
    """For several runs: layers multiply by the values that their weights are quantized to, found once instead of in each run."""
    from brevitas.nn.quant_layer import QuantWeightBiasInputOutputLayer

    layers = [m for m in model.modules() if isinstance(m, QuantWeightBiasInputOutputLayer) and m.weight_quant.is_quant_enabled]
    kept = [layer.weight.data for layer in layers]
    try:
        for layer in layers:
            layer.weight.data = layer.quant_weight().value.detach()
            layer.weight_quant.disable_quant = True
        yield
    finally:
        for layer, weight in zip(layers, kept):
            layer.weight.data = weight
            layer.weight_quant.disable_quant = False


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

    of_weights: Any = Int8WeightPerChannelFloat if widths.per_channel else Int8WeightPerTensorFloat

    class Weight(of_weights):
        narrow_range = widths.narrow_range
        bit_width = widths.weight_bits
        if widths.overflow == "channel" and widths.weight_bits == 8:  # fewer bits fit as they are
            scaling_stats_impl = PairMax

    class Signed(Int8ActPerTensorFloat):
        bit_width = widths.activation
        scaling_stats_impl = Percentile

    class Factor(Signed):
        bit_width = widths.factor_bits

    class Unsigned(Uint8ActPerTensorFloat):
        bit_width = widths.activation
        scaling_stats_impl = Percentile

    if isinstance(layer, SignedPoint):
        return qnn.QuantIdentity(act_quant=Factor)
    if isinstance(layer, UnsignedPoint):
        return qnn.QuantIdentity(act_quant=Unsigned)
    shared = {"bias": layer.bias is not None, "weight_quant": Weight, "input_quant": Signed}
    if isinstance(layer, nn.Linear):
        new = qnn.QuantLinear(layer.in_features, layer.out_features, **shared)
    elif isinstance(layer, nn.ConvTranspose2d):
        return _transposed(layer, shared)
    else:
        new = qnn.QuantConv2d(
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


def _transposed(layer: nn.ConvTranspose2d, shared: dict) -> nn.Module:
    """A transposed convolution that does not overlap, as the 1 x 1 convolution and the shuffle that it equals.

    On AVX-512 without VNNI oneDNN halves the weights of a transposed convolution whose input is signed, and drops their last
    bit (with a convolution's it does not): the mean of a 2 x 2 one moved by 2 % of the largest value.

    Raises:
        ValueError: it overlaps.
    """
    from brevitas import nn as qnn

    side = layer.stride[0]
    if not (
        layer.kernel_size == layer.stride == (side, side)
        and layer.groups == 1
        and not any((*layer.padding, *layer.output_padding))
    ):
        raise ValueError(f"a transposed convolution of {layer.kernel_size} at stride {layer.stride} cannot be quantized")

    class Transposed(qnn.QuantConv2d):
        def forward(self, x: Tensor) -> Tensor:
            return pixel_shuffle(super().forward(x), side)

    new = Transposed(layer.in_channels, layer.out_channels * side * side, 1, **shared)
    with torch.no_grad():  # in x out x row x column -> a channel per out, row and column
        new.weight.copy_(layer.weight.flatten(1).T[..., None, None])
        if layer.bias is not None:
            new.bias.copy_(layer.bias.repeat_interleave(side * side))
    return new
