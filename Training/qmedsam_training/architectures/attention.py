"""Multi-head attention with the public SAM's parameter names and the points where its products are quantized."""

from __future__ import annotations

from typing import Optional

from torch import Tensor, nn

from .marks import SignedPoint, UnsignedPoint


class Attention(nn.Module):
    """Queries, keys and values of ``width`` channels, attended in ``inner`` (SAM's cross attention halves it)."""

    def __init__(self, width: int, heads: int, inner: Optional[int] = None) -> None:
        super().__init__()
        inner = inner or width
        self.heads = heads
        self.scale = (inner // heads) ** -0.5
        self.q_proj, self.k_proj = nn.Linear(width, inner), nn.Linear(width, inner)
        self.v_proj, self.out_proj = nn.Linear(width, inner), nn.Linear(inner, width)
        self.q_point, self.k_point, self.v_point = SignedPoint(), SignedPoint(), SignedPoint()
        self.weight_point = UnsignedPoint()

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``B x n x width``, ``B x m x width`` twice -> ``B x n x width``."""

        def split(x: Tensor) -> Tensor:
            # int(): the number of tokens is fixed by the network, only the number of boxes is dynamic in an exported graph
            return x.reshape(-1, int(x.shape[1]), self.heads, int(x.shape[2]) // self.heads).transpose(1, 2)

        query = self.q_point(split(self.q_proj(q)))
        key = self.k_point(split(self.k_proj(k)).transpose(2, 3))
        weights = self.weight_point(((query @ key) * self.scale).softmax(dim=-1))
        mixed = weights @ self.v_point(split(self.v_proj(v)))
        return self.out_proj(mixed.transpose(1, 2).flatten(2))
