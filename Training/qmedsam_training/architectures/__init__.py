"""Networks by name, float; :mod:`qmedsam_training.quantization` turns any of them into its quantized form."""

from __future__ import annotations

from typing import Callable, Dict

from torch import nn

from .compact import CompactSAM

_BUILDERS: Dict[str, Callable[..., nn.Module]] = {"qmedsam-compact": CompactSAM}


def names() -> list:
    """Every name that :func:`build` takes."""
    return sorted(_BUILDERS)


def build(name: str, **options) -> nn.Module:
    """A float module with ``encode`` and ``decode``, randomly initialised.

    Raises:
        ValueError: the name is not known.
    """
    if name not in _BUILDERS:
        raise ValueError(f"Unknown architecture '{name}'; known: {', '.join(names())}.")
    return _BUILDERS[name](**options)
