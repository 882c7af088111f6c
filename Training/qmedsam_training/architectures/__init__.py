"""Networks by name, float; :mod:`qmedsam_training.quantization` turns any of them into its quantized form."""

from __future__ import annotations

from typing import Callable, Dict, List

from .compact import CompactSAM
from .promptable import Promptable
from .sam import Sam
from .tiny_vit import TinyViT
from .vit import ViT

_BUILDERS: Dict[str, Callable[..., Promptable]] = {
    "qmedsam-compact": CompactSAM,
    "litemedsam": lambda **options: Sam(TinyViT(**options), input_size=256),
    "medsam": lambda **options: Sam(ViT(**options), input_size=1024),
}


def names() -> List[str]:
    """Every name that :func:`build` takes."""
    return sorted(_BUILDERS)


def build(name: str, **options) -> Promptable:
    """A float network, randomly initialised. ``litemedsam`` and ``medsam`` have the public checkpoints' ``state_dict``.

    Args:
        name: one of :func:`names`.
        options: of the architecture; the public ones need none.

    Raises:
        ValueError: the name is not known.
    """
    if name not in _BUILDERS:
        raise ValueError(f"Unknown architecture '{name}'; known: {', '.join(names())}.")
    return _BUILDERS[name](**options)
