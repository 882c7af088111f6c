"""Synthetic scenes in the manner of SynthSeg and SynthFM: random shapes, random contrast, random imaging physics.

They teach "what a border is" without any particular anatomy, and cover modalities of which there are few real images.
"""

from __future__ import annotations

import math
from typing import Tuple

import numpy as np
import torch
import torch.nn.functional as F


def random_scene(rng: np.random.Generator, size: int) -> Tuple[np.ndarray, np.ndarray]:
    """One image and the objects on it.

    Returns:
        ``size x size`` or ``size x size x 3`` float32, and masks ``N x size x size`` in 0..1 (1 to 3 objects).
    """
    labels = _regions(rng, size)
    focus = _shape(rng, size, close_up=rng.random() < 0.75)
    shapes = [focus] + [_shape(rng, size, close_up=False) for _ in range(int(rng.integers(0, 5)))]
    order = list(range(len(shapes)))
    rng.shuffle(order)
    first = labels.max() + 1
    for n in order:
        labels[shapes[n]] = first + n
    if rng.random() < 0.7:
        labels[focus] = first  # mostly the object in focus lies in front
    if rng.random() < 0.25:  # something inside it, sometimes part of the object (a necrotic core), sometimes not
        inner = focus & _shape(rng, size, close_up=False)
        if rng.random() < 0.5 and inner.sum() < 0.6 * focus.sum():
            labels[inner] = labels.max() + 1
    image = _paint(rng, labels, first, size)
    wanted = [first] + [first + int(n) for n in rng.permutation(len(shapes) - 1)[:2] + 1]
    masks = [labels == value for value in wanted]
    masks = [m for m in masks if m.sum() >= 30] or [focus]
    return image, np.stack(masks).astype(np.float32)


def _noise(rng: np.random.Generator, channels: int, knots: int, size: int) -> np.ndarray:
    """Smooth random fields, ``channels x size x size``, about unit variance."""
    field = torch.from_numpy(rng.standard_normal((1, channels, knots, knots), dtype=np.float32))
    return F.interpolate(field, size=(size, size), mode="bicubic", align_corners=False)[0].numpy()


def _regions(rng: np.random.Generator, size: int) -> np.ndarray:
    """A background of a few winding regions."""
    count = int(rng.integers(1, 9))
    fields = _noise(rng, count, int(rng.integers(3, 12)), size) + rng.normal(0, 0.4, (count, 1, 1))
    return fields.argmax(axis=0).astype(np.int32)


def _shape(rng: np.random.Generator, size: int, close_up: bool) -> np.ndarray:
    """A blob, bean, ring, tube or polygon-like shape: a radial Fourier series in warped coordinates."""
    if close_up:
        center, radius = rng.uniform(0.42, 0.58, 2), rng.uniform(0.2, 0.34)
    else:
        center, radius = rng.uniform(0.05, 0.95, 2), math.exp(rng.uniform(math.log(0.02), math.log(0.3)))
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(axis - center[0], axis - center[1])
    if rng.random() < 0.7:
        warp = _noise(rng, 2, int(rng.integers(3, 8)), size) * radius * rng.uniform(0.05, 0.35)
        x, y = x + warp[0], y + warp[1]
    turn, stretch = rng.uniform(0, math.pi), math.exp(rng.normal(0, 0.35))
    u = (x * math.cos(turn) + y * math.sin(turn)) * stretch
    v = (-x * math.sin(turn) + y * math.cos(turn)) / stretch
    if rng.random() < 0.15:  # a bent band
        v = v - rng.normal(0, 1.5) * u * u / radius
        return (np.abs(v) < radius * rng.uniform(0.15, 0.5)) & (np.abs(u) < radius)
    angle, distance = np.arctan2(v, u), np.hypot(u, v)
    border = np.full_like(angle, radius)
    for order in range(2, 2 + int(rng.integers(0, 6))):
        border += radius * rng.normal(0, 0.35 / order) * np.cos(order * angle + rng.uniform(0, 2 * math.pi))
    inside = distance < np.maximum(border, 0.3 * radius)
    if rng.random() < 0.08:  # a ring: myocardium, cortex
        inside &= distance > border * rng.uniform(0.4, 0.75)
    return inside


def _paint(rng: np.random.Generator, labels: np.ndarray, target: int, size: int) -> np.ndarray:
    """Grey values or colours per label, texture, partial volume, bias field, noise."""
    count = int(labels.max()) + 1
    channels = 3 if rng.random() < 0.25 else 1
    means = rng.uniform(0, 1, (count, channels))
    if channels == 3:
        means = 0.5 * means + 0.5 * rng.uniform(0, 1, (count, 1))
    if rng.random() < 0.35:  # hardly any contrast against one neighbour
        neighbour = int(rng.integers(count))
        means[target] = means[neighbour] + rng.choice([-1, 1]) * rng.uniform(0.06, 0.2)
    image = means[labels].transpose(2, 0, 1).astype(np.float32)
    roughness = (rng.uniform(0, 0.2, count) * (rng.random(count) < 0.6)).astype(np.float32)
    if roughness.any():
        scales = [_noise(rng, 2, k, size) for k in (int(rng.integers(6, 16)), int(rng.integers(size // 6, size // 2)))]
        texture = np.where((labels % 2 == 0), scales[0][0], scales[1][0])
        image += roughness[labels] * texture
    planes = torch.from_numpy(image)[None]
    blur = rng.uniform(0.3, 2.2) * size / 128
    taps = torch.arange(-4, 5, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (taps / blur) ** 2)
    kernel = (kernel / kernel.sum()).reshape(1, 1, 1, -1).expand(channels, 1, 1, -1)
    planes = F.pad(planes, (4, 4, 4, 4), mode="reflect")
    planes = F.conv2d(F.conv2d(planes, kernel, groups=channels), kernel.transpose(2, 3), groups=channels)
    if rng.random() < 0.4:
        planes = planes * torch.from_numpy(np.exp(_noise(rng, 1, 3, size) * 0.3))[None]
    amount = rng.uniform(0, 0.12)
    grain = rng.standard_normal((channels, size, size), dtype=np.float32)
    if rng.random() < 0.35:  # coarse grain, as in ultrasound and PET
        grain = _noise(rng, channels, int(rng.integers(size // 6, size // 2)), size)
    planes = planes + torch.from_numpy(grain * amount) * (planes if rng.random() < 0.4 else 1.0)
    out = planes[0].permute(1, 2, 0).numpy()
    return out[..., 0] if channels == 1 else out
