"""Geometry and looks of a drawn frame, changed at random. Intensities stay near 0..1.

``strength`` (0..1) scales how far and how often: heavy changes cover what was never seen, light ones spend a small
network's capacity on what it will be asked.
"""

from __future__ import annotations

import math
from typing import Tuple

import numpy as np
import torch
import torch.nn.functional as F
from qmedsam.frames import Frame


def zoomed(frame: Frame, size: int, zoom: float, strength: float, rng: np.random.Generator) -> Frame:
    """The same centre and scale times ``zoom`` and a little anisotropy, on a square of ``size`` network pixels."""
    stretch = math.exp(rng.normal(0, 0.07 * strength))
    scale_x, scale_y = frame.scale_x * zoom * stretch, frame.scale_y * zoom / stretch
    center_x = frame.left + frame.size / frame.scale_x / 2
    center_y = frame.top + frame.size / frame.scale_y / 2
    return Frame(center_x - size / scale_x / 2, center_y - size / scale_y / 2, scale_x, scale_y, size)


def warped(
    image: np.ndarray, valid: np.ndarray, masks: np.ndarray, size: int, strength: float, rng: np.random.Generator
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotate, bend and crop to the middle ``size`` pixels; flip and turn by quarters."""
    big = image.shape[0]
    channels = image[..., None] if image.ndim == 2 else image
    stack = np.concatenate([channels.transpose(2, 0, 1), valid[None], masks]).astype(np.float32)
    angle = math.radians(rng.uniform(-25, 25)) if rng.random() < 0.6 * strength else 0.0
    theta = torch.tensor([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]])
    grid = F.affine_grid(theta[None].float() * (size / big), [1, 1, size, size], align_corners=False)
    if rng.random() < 0.5 * strength:
        knots = int(rng.integers(3, 7))
        bend = torch.from_numpy(rng.normal(0, rng.uniform(0.01, 0.05), (1, 2, knots, knots)).astype(np.float32))
        grid = grid + F.interpolate(bend, size=(size, size), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    out = F.grid_sample(torch.from_numpy(stack)[None], grid, align_corners=False)[0].numpy()
    if rng.random() < 0.5:
        out = out[:, :, ::-1]
    out = np.rot90(out, k=int(rng.integers(4)), axes=(1, 2)) if rng.random() < 0.5 * strength else out
    n = channels.shape[2]
    drawn = out[:n].transpose(1, 2, 0)
    return (drawn if image.ndim == 3 else drawn[..., 0]).copy(), out[n] > 0.5, out[n + 1 :].copy()


def repainted(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change contrast, colour, sharpness and noise, never the geometry."""
    low, high = float(image.min()), float(image.max())
    image = (image - low) / max(high - low, 1e-3)
    if rng.random() < 0.5:
        image = image ** math.exp(rng.normal(0, 0.35))
    if image.ndim == 2 and rng.random() < 0.12:
        image = 1 - image
    if image.ndim == 3:
        if rng.random() < 0.15:
            image = image.mean(axis=2)
        else:
            image = image * rng.uniform(0.75, 1.25, 3) + rng.uniform(-0.1, 0.1, 3)
    if rng.random() < 0.3:  # a narrower window
        a, b = np.sort(rng.uniform(0, 1, 2))
        if b - a > 0.4:
            image = np.clip((image - a) / (b - a), 0, 1)
    tensor = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32))
    planes = tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)
    kind = rng.random()
    if kind < 0.2:  # lower resolution
        factor = rng.uniform(0.3, 0.8)
        small = F.interpolate(planes[None], scale_factor=factor, mode="area")
        planes = F.interpolate(small, size=planes.shape[1:], mode="bilinear", align_corners=False)[0]
    if rng.random() < 0.3:  # uneven illumination
        field = torch.from_numpy(rng.normal(0, 0.25, (1, 1, 3, 3)).astype(np.float32))
        planes = planes * F.interpolate(field, size=planes.shape[1:], mode="bicubic", align_corners=False)[0].exp()
    if rng.random() < 0.4:
        noise = torch.from_numpy(rng.standard_normal(planes.shape, dtype=np.float32)) * float(rng.uniform(0.01, 0.1))
        planes = planes + (noise * planes if rng.random() < 0.3 else noise)
    return (planes[0] if image.ndim == 2 else planes.permute(1, 2, 0)).numpy()


def flipped(image: np.ndarray, valid: np.ndarray, masks: np.ndarray, rng: np.random.Generator) -> Tuple[np.ndarray, ...]:
    """Left-right and up-down, each with probability 0.5 (QMedSAM paper, section 3.3). ``masks``: ``N x S x S``."""
    for axis in (0, 1):
        if rng.random() < 0.5:
            image, valid, masks = np.flip(image, axis), np.flip(valid, axis), np.flip(masks, axis + 1)
    return image, valid, masks
