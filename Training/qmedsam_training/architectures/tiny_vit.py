"""LiteMedSAM's image encoder: TinyViT (Wu et al. 2022) with a 1 x 1, stride-1 stem, and SAM's neck."""

from __future__ import annotations

import itertools
from typing import Optional, Sequence

import torch
from torch import Tensor, nn

from .marks import SignedPoint, UnsignedPoint
from .sam import neck


class ConvBN(nn.Sequential):
    """Convolution and batch normalisation under the checkpoints' names."""

    def __init__(self, cin: int, cout: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.add_module("c", nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False))
        self.add_module("bn", nn.BatchNorm2d(cout))


class PatchEmbed(nn.Module):
    """Two 1 x 1 convolutions at full resolution (MobileSAM has two strided 3 x 3 here)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(ConvBN(3, width // 2), nn.GELU(), ConvBN(width // 2, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)


class MBConv(nn.Module):
    """Inverted bottleneck; the activation follows the addition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(width, 4 * width)
        self.conv2 = ConvBN(4 * width, 4 * width, 3, groups=4 * width)
        self.conv3 = ConvBN(4 * width, width)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.conv3(self.act(self.conv2(self.act(self.conv1(x))))))


class PatchMerging(nn.Module):
    """Fewer pixels (or, at stride 1, only more channels)."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(cin, cout)
        self.conv2 = ConvBN(cout, cout, 3, stride, groups=cout)
        self.conv3 = ConvBN(cout, cout)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(self.act(self.conv2(self.act(self.conv1(x)))))


class WindowAttention(nn.Module):
    """Attention within a window, with a learned bias per distance; q, k, v are interleaved per head."""

    index: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.norm = nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        points = list(itertools.product(range(window), repeat=2))
        offsets: dict = {}
        index = [
            offsets.setdefault((abs(a[0] - b[0]), abs(a[1] - b[1])), len(offsets)) for a, b in itertools.product(points, repeat=2)
        ]
        self.attention_biases = nn.Parameter(torch.zeros(heads, len(offsets)))
        self.register_buffer("index", torch.tensor(index).reshape(len(points), len(points)), persistent=False)
        self.q_point, self.k_point, self.v_point = SignedPoint(), SignedPoint(), SignedPoint()
        self.weight_point = UnsignedPoint()

    def forward(self, x: Tensor) -> Tensor:
        """``B x window**2 x width``."""
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm(x)).reshape(batch, tokens, self.heads, 3 * width // self.heads).permute(0, 2, 1, 3)
        q, k, v = qkv.split(width // self.heads, dim=3)
        scores = (self.q_point(q) @ self.k_point(k.transpose(2, 3))) * self.scale + self.attention_biases[:, self.index]
        mixed = self.weight_point(scores.softmax(dim=-1)) @ self.v_point(v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    """Normalisation and two linear layers with GELU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1, self.fc2, self.act = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(self.norm(x))))


class TinyViTBlock(nn.Module):
    """Window attention, a depthwise convolution without residual, an MLP."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.attn = WindowAttention(width, heads, window)
        self.local_conv = ConvBN(width, width, 3, groups=width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """``B x C x H x W``."""
        batch, width, height, breadth = x.shape
        w = self.window
        tokens = x.permute(0, 2, 3, 1)
        # Zero padding is not masked: padded tokens become the norm's bias and take part, in the checkpoints' training too.
        padded = nn.functional.pad(tokens, (0, 0, 0, -breadth % w, 0, -height % w))
        rows, columns = padded.shape[1] // w, padded.shape[2] // w
        windows = padded.reshape(batch, rows, w, columns, w, width).transpose(2, 3).reshape(-1, w * w, width)
        back = self.attn(windows).reshape(batch, rows, columns, w, w, width).transpose(2, 3)
        tokens = tokens + back.reshape(batch, rows * w, columns * w, width)[:, :height, :breadth]
        tokens = self.local_conv(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return (tokens + self.mlp(tokens)).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """Blocks, then (except at the end) a merging."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: Optional[PatchMerging]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        if downsample is not None:
            self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.downsample(x) if hasattr(self, "downsample") else x


class TinyViT(nn.Module):
    """``B x 3 x 256 x 256`` -> ``B x 256 x 64 x 64``; 5,726,740 parameters, 37.5 GMAC."""

    def __init__(
        self,
        widths: Sequence[int] = (64, 128, 160, 320),
        depths: Sequence[int] = (2, 2, 6, 2),
        heads: Sequence[int] = (2, 4, 5, 10),
        windows: Sequence[int] = (7, 7, 14, 7),
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(widths[0])
        strides = (2, 2, 1)  # the last merging keeps the resolution: LiteMedSAM's embedding is 64 x 64
        stages = []
        for n, (width, depth) in enumerate(zip(widths, depths)):
            blocks = [MBConv(width) if n == 0 else TinyViTBlock(width, heads[n], windows[n]) for _ in range(depth)]
            merging = PatchMerging(width, widths[n + 1], strides[n]) if n + 1 < len(widths) else None
            stages.append(Stage(blocks, merging))
        self.layers = nn.ModuleList(stages)
        self.neck = neck(widths[-1])

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image)
        for stage in self.layers:
            x = stage(x)
        return self.neck(x)
