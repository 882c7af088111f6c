"""What an architecture tells the quantizer about itself. Needs torch alone: a float network is trained without Brevitas."""

from __future__ import annotations

from torch import nn


class SignedPoint(nn.Identity):
    """Marks a tensor that enters a matrix product and has both signs."""


class UnsignedPoint(nn.Identity):
    """Marks a tensor that enters a matrix product and is never negative (a softmax)."""


class KeptFloat:
    """Mixin for a part whose layers stay float when the rest is quantized (the prompt encoder)."""
