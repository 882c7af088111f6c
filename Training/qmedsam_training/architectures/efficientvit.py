"""EfficientViT-SAM L0, L1 and L2: EfficientViT's large backbones and a convolutional neck before SAM's two other parts.

Facts as in "EfficientViT-SAM" (Zhang et al. 2024) and "EfficientViT" (Cai et al. 2023), names as in the public checkpoints.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Iterable, List, Optional, Sequence

import torch
from torch import Tensor, nn

from .marks import SignedPoint, UnsignedPoint
from .sam import GRID, WIDTH, LayerNorm2d, Sam

#: Of stages 0 to 4, the same in all three.
WIDTHS = (32, 64, 128, 256, 512)
#: Channels of a head.
HEAD = 32


class ConvNorm(nn.Module):
    """Convolution, batch normalisation and GELU; without the norm there is, as a rule, a bias instead."""

    def __init__(
        self,
        cin: int,
        cout: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        norm: bool = True,
        act: bool = False,
        bias: Optional[bool] = None,
    ) -> None:
        super().__init__()
        bias = not norm if bias is None else bias
        self.conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=bias)
        self.norm = nn.BatchNorm2d(cout) if norm else nn.Identity()
        self.act = nn.GELU(approximate="tanh") if act else nn.Identity()  # the public weights were trained with tanh

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


def res_block(width: int) -> nn.Module:
    """Two 3 x 3 convolutions."""
    return nn.Sequential(OrderedDict(conv1=ConvNorm(width, width, 3, act=True), conv2=ConvNorm(width, width, 3)))


def fused_mb_conv(cin: int, cout: int, expand: int, stride: int = 1) -> nn.Module:
    """A dense 3 x 3 that expands and a 1 x 1 that contracts."""
    spatial = ConvNorm(cin, cin * expand, 3, stride, act=True)
    return nn.Sequential(OrderedDict(spatial_conv=spatial, point_conv=ConvNorm(cin * expand, cout)))


def mb_conv(cin: int, cout: int, expand: int, stride: int = 1) -> nn.Module:
    """1 x 1, depthwise 3 x 3, 1 x 1; normalised only at its end."""
    middle = cin * expand
    return nn.Sequential(
        OrderedDict(
            inverted_conv=ConvNorm(cin, middle, norm=False, act=True),
            depth_conv=ConvNorm(middle, middle, 3, stride, groups=middle, norm=False, act=True),
            point_conv=ConvNorm(middle, cout),
        )
    )


class Residual(nn.Module):
    """``main``, with a shortcut unless it changes the shape."""

    def __init__(self, main: nn.Module, shortcut: bool = True) -> None:
        super().__init__()
        self.main, self.shortcut = main, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return x + self.main(x) if self.shortcut else self.main(x)


class Steps(nn.Module):
    """One after the other, under the checkpoints' ``op_list``."""

    def __init__(self, steps: Iterable[nn.Module]) -> None:
        super().__init__()
        self.op_list = nn.ModuleList(steps)

    def forward(self, x: Tensor) -> Tensor:
        for step in self.op_list:
            x = step(x)
        return x


class LinearAttention(nn.Module):
    """ReLU linear attention at two scales: cost grows with the pixels, not with their square.

    ``out = q (k v) / (q sum(k))``. Both products are int8. The denominator is a float sum over the *quantized* q and k, so
    that the weights of the quantized attention still add up to one; as one more row of the product (the public
    code's way) it would share the rounding of values that it is many times larger than.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = ConvNorm(width, 3 * width, norm=False, bias=False)
        mixed = nn.Conv2d(3 * width, 3 * width, 1, groups=3 * width // HEAD, bias=False)
        near = nn.Conv2d(3 * width, 3 * width, 5, padding=2, groups=3 * width, bias=False)
        self.aggreg = nn.ModuleList([nn.Sequential(near, mixed)])
        self.proj = ConvNorm(2 * width, width)
        self.q_point, self.k_point = UnsignedPoint(), UnsignedPoint()
        self.v_point, self.kv_point = SignedPoint(), SignedPoint()

    def forward(self, x: Tensor) -> Tensor:
        """``B x width x H x W``."""
        batch, _, height, breadth = x.shape
        qkv = self.qkv(x)
        heads = torch.cat([qkv, self.aggreg[0](qkv)], dim=1).reshape(batch, -1, 3 * HEAD, height * breadth)
        q, k, v = heads.split(HEAD, dim=2)
        q, k, v = self.q_point(q.relu()), self.k_point(k.relu()), self.v_point(v)
        # The unsigned factor of each product comes first: with it in second place OpenVINO runs the product in float.
        out = q.transpose(2, 3) @ self.kv_point(k @ v.transpose(2, 3))
        share = (q * k.sum(dim=3, keepdim=True)).sum(dim=2)[:, :, None]
        return self.proj((out.transpose(2, 3) / (share + 1e-15)).reshape(batch, -1, height, breadth))


class AttentionBlock(nn.Module):
    """Attention for the context, an inverted bottleneck for what is near."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.context_module = Residual(LinearAttention(width))
        self.local_module = Residual(mb_conv(width, width, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.local_module(self.context_module(x))


class Backbone(nn.Module):
    """Five stages, each at half of the resolution before it."""

    def __init__(self, depths: Sequence[int]) -> None:
        super().__init__()
        first = [ConvNorm(3, WIDTHS[0], 3, 2, act=True), *(Residual(res_block(WIDTHS[0])) for _ in range(depths[0]))]
        stages = [Steps(first)]
        for n in range(1, 5):
            cin, width = WIDTHS[n - 1], WIDTHS[n]
            convs, expand = (fused_mb_conv if n <= 2 else mb_conv), (24 if n == 4 else 16)
            steps: List[nn.Module] = [Residual(convs(cin, width, expand, stride=2), shortcut=False)]
            steps += [AttentionBlock(width) if n == 4 else Residual(convs(width, width, 4)) for _ in range(depths[n])]
            stages.append(Steps(steps))
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> Sequence[Tensor]:
        """The last three stages' features, coarsest first."""
        features: List[Tensor] = []
        for stage in self.stages:
            image = stage(image)
            features.insert(0, image)
        return features[:3]


class Neck(nn.Module):
    """Three resolutions added on SAM's grid, then convolutions."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        # At 512 pixels the finest of the three (stage 2) is on the grid already.
        up = [nn.Upsample(size=(GRID, GRID), mode="bicubic"), nn.Upsample(size=(GRID, GRID), mode="bicubic"), nn.Identity()]
        self.input_ops = nn.ModuleList(Steps([ConvNorm(w, WIDTH), u]) for w, u in zip(reversed(WIDTHS), up))
        self.middle = Steps(Residual(fused_mb_conv(WIDTH, WIDTH, 1)) for _ in range(depth))
        self.output_ops = nn.ModuleList([Steps([ConvNorm(WIDTH, WIDTH, norm=False)])])

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        coarse, middle, fine = (op(x) for op, x in zip(self.input_ops, features))
        return self.output_ops[0](self.middle(coarse + (middle + fine)))


class Encoder(nn.Module):
    """``B x 3 x 512 x 512`` -> ``B x 256 x 64 x 64``."""

    def __init__(self, depths: Sequence[int], neck: int) -> None:
        super().__init__()
        self.backbone, self.neck, self.norm = Backbone(depths), Neck(neck), LayerNorm2d(WIDTH)

    def forward(self, image: Tensor) -> Tensor:
        return self.norm(self.neck(self.backbone(image)))


def efficientvit_sam(depths: Sequence[int], neck: int) -> Sam:
    """A network with the public names.

    Args:
        depths: blocks of every stage, L0 (1, 1, 1, 4, 4), L1 (1, 1, 1, 6, 6), L2 (1, 2, 2, 8, 8).
        neck: its blocks, L0 4, L1 8, L2 12.
    """
    model = Sam(Encoder(depths, neck), input_size=512, prompt_size=1024)
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            module.eps = 1e-6  # everywhere, the decoder's norms too: the public code sets it on the whole model
    return model
