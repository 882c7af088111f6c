"""Networks by name, float; :mod:`qmedsam_training.quantization` turns any of them into its quantized form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional

from .compact import CompactSAM
from .efficient_sam import EfficientSam
from .efficientvit import efficientvit_sam
from .promptable import Promptable
from .sam import Sam
from .tiny_vit import TinyViT
from .vit import ViT


@dataclass(frozen=True)
class Architecture:
    """A network and how the engine has to feed it; the latter goes into the manifest of what is exported.

    Args:
        make: builds it.
        input_size: side of its square in pixels; one that works at several sizes says here what it is used with.
        normalization, frame: fields of the manifest.
        multiple: of pixels that its side has to be; the public networks know positions of one side alone.
    """

    make: Callable[..., Promptable]
    input_size: int
    normalization: Dict[str, Any]
    frame: Dict[str, Any]
    multiple: Optional[int] = None

    def takes(self, size: int) -> bool:
        """Whether the network works on squares of that side."""
        return size % self.multiple == 0 if self.multiple else size == self.input_size


#: The public ones see the whole slice ...
_WHOLE = {"kind": "slice"}
#: ... scaled to 0..1 by its own extremes (LiteMedSAM's and MedSAM's preparation);
_MINMAX = {"kind": "minmax"}
#: those that were trained on photographs want ImageNet's mean and deviation.
_PHOTO = {"kind": "fixed", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}

ARCHITECTURES: Dict[str, Architecture] = {
    "qmedsam-compact": Architecture(CompactSAM, 160, {"kind": "zscore"}, {"kind": "roi", "margin": 0.3}, 32),
    "litemedsam": Architecture(lambda **options: Sam(TinyViT(**options), input_size=256), 256, _MINMAX, _WHOLE),
    "medsam": Architecture(lambda **options: Sam(ViT(**options), input_size=1024), 1024, _MINMAX, _WHOLE),
    "efficientvit-sam-l0": Architecture(lambda: efficientvit_sam((1, 1, 1, 4, 4), neck=4), 512, _PHOTO, _WHOLE),
    "efficientvit-sam-l1": Architecture(lambda: efficientvit_sam((1, 1, 1, 6, 6), neck=8), 512, _PHOTO, _WHOLE),
    "efficientvit-sam-l2": Architecture(lambda: efficientvit_sam((1, 2, 2, 8, 8), neck=12), 512, _PHOTO, _WHOLE),
    "efficient-sam-ti": Architecture(lambda: EfficientSam(width=192, heads=3), 1024, _PHOTO, _WHOLE),
    "efficient-sam-s": Architecture(lambda: EfficientSam(width=384, heads=6), 1024, _PHOTO, _WHOLE),
}


def names() -> List[str]:
    """Every name that :func:`build` takes."""
    return sorted(ARCHITECTURES)


def build(name: str, **options: Any) -> Promptable:
    """A float network, randomly initialised. All but ours have the public checkpoints' ``state_dict``.

    Args:
        name: one of :func:`names`.
        options: of the architecture; the public ones need none.

    Raises:
        ValueError: the name is not known.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"Unknown architecture '{name}'; known: {', '.join(names())}.")
    return ARCHITECTURES[name].make(**options)
