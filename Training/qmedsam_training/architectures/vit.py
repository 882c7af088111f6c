"""MedSAM's image encoder: SAM's ViT-B with windowed and global attention and decomposed relative positions."""

from __future__ import annotations

from typing import Sequence

import torch
from torch import Tensor, nn

from .marks import SignedPoint, UnsignedPoint
from .sam import Mlp, neck


class PatchEmbed(nn.Module):
    """Patches of 16 pixels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, 16, 16)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).permute(0, 2, 3, 1)


class RelativeAttention(nn.Module):
    """Attention over a square of ``side`` tokens with a bias from the query and the distance along each axis."""

    distance: Tensor

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads, self.side, self.scale = heads, side, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, width // heads))
        axis = torch.arange(side)
        self.register_buffer("distance", axis[:, None] - axis[None, :] + side - 1, persistent=False)
        self.q_point, self.k_point, self.v_point = SignedPoint(), SignedPoint(), SignedPoint()
        self.weight_point = UnsignedPoint()

    def forward(self, x: Tensor) -> Tensor:
        """``B x side x side x width``."""
        batch, side, _, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, side * side, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (self.q_point(q) @ self.k_point(k.transpose(2, 3))) * self.scale
        grid = q.reshape(batch, self.heads, side, side, -1)
        # The query's row (column) against every row (column) of keys: exact products in float, tiny beside q k.
        rows = torch.einsum("bhyxc,ykc->bhyxk", grid, self.rel_pos_h[self.distance])
        columns = torch.einsum("bhyxc,xkc->bhyxk", grid, self.rel_pos_w[self.distance])
        bias = (rows[..., :, None] + columns[..., None, :]).reshape(scores.shape)
        mixed = self.weight_point((scores + bias).softmax(dim=-1)) @ self.v_point(v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, side, side, width))


class Block(nn.Module):
    """Pre-norm transformer block; ``window`` 0 attends globally."""

    def __init__(self, width: int, heads: int, grid: int, window: int) -> None:
        super().__init__()
        self.window = window
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = RelativeAttention(width, heads, window or grid)
        self.mlp = Mlp(width, 4 * width, nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        """``B x G x G x width``."""
        batch, height, breadth, width = x.shape
        normal, w = self.norm1(x), self.window
        if w:
            padded = nn.functional.pad(normal, (0, 0, 0, -breadth % w, 0, -height % w))
            rows, columns = padded.shape[1] // w, padded.shape[2] // w
            windows = padded.reshape(batch, rows, w, columns, w, width).transpose(2, 3).reshape(-1, w, w, width)
            back = self.attn(windows).reshape(batch, rows, columns, w, w, width).transpose(2, 3)
            x = x + back.reshape(batch, rows * w, columns * w, width)[:, :height, :breadth]
        else:
            x = x + self.attn(normal)
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """``B x 3 x 1024 x 1024`` -> ``B x 256 x 64 x 64``; 89,670,912 parameters."""

    def __init__(
        self,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        grid: int = 64,
        window: int = 14,
        global_blocks: Sequence[int] = (2, 5, 8, 11),
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(width)
        self.pos_embed = nn.Parameter(torch.zeros(1, grid, grid, width))
        self.blocks = nn.ModuleList(Block(width, heads, grid, 0 if n in global_blocks else window) for n in range(depth))
        self.neck = neck(width)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))
