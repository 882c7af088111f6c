"""Contrast, colour, sharpness and noise changed at random on the device, a batch at a time; geometry stays."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .drawing import chosen, uniform


def repainted(image: Tensor, is_3d: Tensor, strength: float) -> Tensor:
    """What another scanner, window or camera would have shown.

    Args:
        image: ``B x 3 x S x S`` in 0..1; colours, or slices before, here and behind.
        is_3d: which of them are slices: they are changed alike.
        strength: 0..1, how often.
    """
    count = len(image)
    wide = (count, 1, 1, 1)

    def some(share: float) -> Tensor:
        return chosen(share * strength * 2, count, image).view(wide)

    alike = (image.amax(1) - image.amin(1)).flatten(1).mean(1).view(wide) < 1e-3
    grey = alike | is_3d.view(wide)
    low, high = image.flatten(1).amin(1).view(wide), image.flatten(1).amax(1).view(wide)
    image = (image - low) / (high - low).clamp(min=1e-3)
    gamma = torch.exp(torch.randn(count, device=image.device) * 0.35).view(wide)
    image = torch.where(some(0.25), image.clamp(min=0) ** gamma, image)
    image = torch.where(some(0.06), 1 - image, image)
    tint = image * uniform(0.75, 1.25, image, count, 3, 1, 1) + uniform(-0.1, 0.1, image, count, 3, 1, 1)
    image = torch.where(some(0.25) & ~grey, tint, image)
    image = torch.where(some(0.08) & ~grey, image.mean(1, keepdim=True), image)
    ends = uniform(0, 1, image, count, 2).sort(1).values
    narrow = (ends[:, 1] - ends[:, 0] > 0.4).view(wide)
    window = ((image - ends[:, :1, None, None]) / (ends[:, 1:] - ends[:, :1]).clamp(min=0.4)[..., None, None]).clamp(0, 1)
    image = torch.where(some(0.15) & narrow, window, image)
    image = _blurred(image, some(0.12), strength)
    field = F.interpolate(torch.randn(count, 1, 3, 3, device=image.device) * 0.25, image.shape[-2:], mode="bicubic")
    image = torch.where(some(0.15), image * field.exp(), image)
    noise = torch.randn_like(image) * uniform(0.01, 0.1, image, count).view(wide)
    noise = torch.where(alike, noise[:, :1], noise)  # one channel, shown three times: so is its noise
    noise = torch.where(chosen(0.3, count, image).view(wide), noise * image, noise)
    return torch.where(some(0.2), image + noise, image)


def _blurred(image: Tensor, where: Tensor, strength: float) -> Tensor:
    """Lower resolution, by one factor for the whole batch."""
    if not strength:
        return image
    factor = float(torch.rand(())) * 0.5 + 0.3
    side = image.shape[-1]
    small = F.interpolate(image, size=(max(int(side * factor), 8),) * 2, mode="area")
    return torch.where(where, F.interpolate(small, size=(side, side), mode="bilinear", align_corners=False), image)


def normalised(image: Tensor, valid: Tensor) -> Tensor:
    """Z-scores of the valid pixels over all three channels together, 0 elsewhere: :func:`qmedsam.intensity.normalise`."""
    weight = valid[:, None].float()
    count = (3 * weight.flatten(1).sum(1)).clamp(min=1)
    mean = (image * weight).flatten(1).sum(1) / count
    mean = mean.view(-1, 1, 1, 1)
    deviation = (((image - mean) ** 2 * weight).flatten(1).sum(1) / count).sqrt().clamp(min=1e-3).view(-1, 1, 1, 1)
    return (image - mean) / deviation * weight
