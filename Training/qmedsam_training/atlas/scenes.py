"""Synthetic objects in three dimensions, seen on slices: blobs, tubes, shells, lobes, sheets among others.

In the manner of SynthSeg and SynthFM (random shapes, random contrast, random imaging physics): they teach what a border is
and how an object goes on from slice to slice, without any anatomy.
"""

from __future__ import annotations

import math
from typing import Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .drawing import Drawn, Habits, chosen, extent, uniform

#: Objects of a scene, the target first.
_SHAPES = 5
#: Waves that bend a surface.
_WAVES = 4


def scenes(count: int, habits: Habits, device: torch.device) -> Drawn:
    """``count`` frames of scenes, drawn as :func:`.drawing.draw` does with volumes."""
    like = torch.zeros(1, device=device)
    size = habits.size
    axis = (torch.arange(size, device=device) + 0.5) / size - 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    shapes = _Shapes(count, like)
    # Slices that a box of the target's depth holds, a little beyond its ends as well
    z = uniform(-0.9, 0.9, like, count) * shapes.depth[:, 0]
    alone = chosen(habits.flat, count, like)
    walked = alone & chosen(habits.walked, count, like)
    apart = uniform(0.015, 0.12, like, count) * ~alone
    step = uniform(0.01, 0.08, like, count) * torch.where(z > 0, -1.0, 1.0)
    layers = torch.stack([torch.where(walked, z + step, z - apart), z, z + apart], 1)
    labels = shapes.painted(x, y, layers)
    here = shapes.inside(x, y, z[:, None], slice(0, 1))[:, 0, 0]
    beside = shapes.inside(x, y, (z + step)[:, None], slice(0, 1))[:, 0, 0]
    # What lies over the target hides it, here and there; mostly it lies in front.
    target = shapes.target[:, None, None]
    mask = (labels[:, 1] == target).float()
    spans = torch.linspace(-0.8, 0.8, 5, device=device)
    rims = shapes.inside(x, y, spans[None] * shapes.depth[:, :1], slice(0, 1))[:, 0].any(1) | here
    edges, _ = extent(rims)
    growth = uniform(0, 0.12, like, count, 4)
    sides = (edges[:, 2:] - edges[:, :2]).repeat(1, 2)
    outer = (edges + growth * sides * edges.new_tensor([-1.0, -1.0, 1.0, 1.0])).clamp(-0.5, size - 0.5)
    shares = torch.tensor(habits.kinds[1], device=device).expand(count, 3)
    kind = torch.multinomial(shares, 1)[:, 0]
    seen = mask.flatten(1).sum(1) > 20
    mask = mask * seen[:, None, None]
    kind = torch.where(seen, kind, kind.clamp(min=1))
    image = _painted(labels, shapes.target, like)
    valid = torch.ones(count, size, size, dtype=torch.bool, device=device)
    every = torch.ones_like(seen)
    return Drawn(image, valid, mask, beside.float(), every, walked, every, kind, outer, growth)


class _Shapes:
    """Random implicit surfaces; lengths in parts of the frame."""

    def __init__(self, count: int, like: Tensor) -> None:
        device, n = like.device, _SHAPES
        self.order = torch.argsort(torch.rand(count, n, device=device) - 1e-9, 1)
        radius = torch.exp(uniform(math.log(0.04), math.log(0.3), like, count, n))
        radius[:, 0] = uniform(0.22, 0.32, like, count)
        center = uniform(-0.5, 0.5, like, count, n, 3)
        center[:, 0, :2] = uniform(-0.04, 0.04, like, count, 2)
        center[:, 0, 2] = 0
        center[..., 2] *= 0.6
        stretch = torch.exp(torch.randn(count, n, 3, device=device) * 0.35)
        self.center, self.radii = center, (radius[..., None] * stretch).clamp(max=0.42)
        self.turn = torch.linalg.qr(torch.randn(count, n, 3, 3, device=device)).Q
        # blob, lobes, tube, shell, sheet
        self.form = torch.multinomial(torch.tensor([0.4, 0.2, 0.2, 0.1, 0.1], device=device), count * n, True).view(count, n)
        self.depth = self.radii.amax(-1)
        amount = torch.where(self.form == 1, 0.22, 0.1)[..., None]
        self.amount = torch.randn(count, n, _WAVES, device=device) * amount
        self.wave = torch.randn(count, n, _WAVES, 3, device=device) * 2.2
        self.phase = uniform(0, 2 * math.pi, like, count, n, _WAVES)
        self.bend = torch.randn(count, n, 2, device=device) * 0.6
        self.thin = uniform(0.12, 0.35, like, count, n)
        self.front = chosen(0.75, count, like)
        self.target = torch.full((count,), _SHAPES * 2, device=device)

    def inside(self, x: Tensor, y: Tensor, z: Tensor, which: slice) -> Tensor:
        """``B x n x P x S x S`` for the planes ``z`` (``B x P``)."""
        center, turn = self.center[:, which], self.turn[:, which] / self.radii[:, which][..., None]
        plane = torch.stack([x, y], -1)[None, None, None]  # 1 1 1 S S 2
        dx = plane[..., 0] - center[:, :, 0, None, None, None]
        dy = plane[..., 1] - center[:, :, 1, None, None, None]
        dz = (z[:, None] - center[:, :, 2, None])[..., None, None]
        p = [
            turn[:, :, n, 0, None, None, None] * dx
            + turn[:, :, n, 1, None, None, None] * dy
            + turn[:, :, n, 2, None, None, None] * dz
            for n in range(3)
        ]
        waves = torch.zeros_like(p[0])
        for n in range(_WAVES):
            k = self.wave[:, which, n]
            argument = sum(k[:, :, m, None, None, None] * p[m] for m in range(3)) + self.phase[:, which, n, None, None, None]
            waves = waves + self.amount[:, which, n, None, None, None] * torch.sin(argument)
        bend = self.bend[:, which]
        radius = (p[0] ** 2 + p[1] ** 2 + p[2] ** 2).sqrt()
        b0, b1 = bend[:, :, 0, None, None, None], bend[:, :, 1, None, None, None]
        across = ((p[1] - b0 * (p[0] ** 2 - 0.3)) ** 2 + (p[2] - b1 * torch.sin(2 * p[0])) ** 2).sqrt()
        thin = self.thin[:, which, None, None, None]
        blob = radius < 1 + waves
        tube = (across < thin * (1 + waves)) & (p[0].abs() < 1)
        shell = (radius - 1 - waves * 0.5).abs() < thin * 0.6
        sheet = ((p[2] - b0 * p[0] ** 2 - b1 * p[0] * p[1] - waves).abs() < thin * 0.6) & (p[0] ** 2 + p[1] ** 2 < 1)
        form = self.form[:, which, None, None, None]
        return torch.where(form <= 1, blob, torch.where(form == 2, tube, torch.where(form == 3, shell, sheet)))

    def painted(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Labels of the planes, ``B x P x S x S``: regions of the background, objects, the target last or among them."""
        count = len(z)
        k = torch.randn(count, 4, 3, device=z.device) * 9
        phase = torch.rand(count, 4, device=z.device) * 6.3
        fields = torch.stack(
            [
                torch.sin(
                    k[:, n, 0, None, None, None] * x
                    + k[:, n, 1, None, None, None] * y
                    + k[:, n, 2, None, None, None] * z[..., None, None]
                    + phase[:, n, None, None, None]
                )
                + 0.7
                * torch.sin(
                    k[:, n, 1, None, None, None] * x - k[:, n, 0, None, None, None] * y + 2 * phase[:, n, None, None, None]
                )
                for n in range(4)
            ],
            1,
        )
        labels = fields.argmax(1)
        inside = self.inside(x, y, z, slice(None))
        hidden = torch.where(self.front, 0, _SHAPES)[:, None, None, None]
        for n in (0, *range(1, _SHAPES), 0):
            value = _SHAPES * 2 if n == 0 else _SHAPES + n
            paint = inside[:, n]
            if n == 0:
                paint = paint & ((labels < _SHAPES) | (hidden == 0))
            labels = torch.where(paint, value, labels)
        return labels


def _painted(labels: Tensor, target: Tensor, like: Tensor) -> Tensor:
    """Grey values of labels (``B x P x S x S``): contrast, texture, partial volume, grain; ``B x P x S x S`` in about 0..1."""
    count, planes, size = labels.shape[:3]
    values = torch.rand(count, _SHAPES * 2 + 1, device=like.device)
    near = values.gather(1, torch.randint(0, 4, (count, 1), device=like.device))[:, 0]
    faint = near + uniform(0.06, 0.2, like, count) * torch.where(chosen(0.5, count, like), 1.0, -1.0)
    values[:, -1] = torch.where(chosen(0.35, count, like), faint, values[:, -1])
    image = values.gather(1, labels.flatten(1)).view(labels.shape)
    rough = uniform(0, 0.2, like, count, _SHAPES * 2 + 1) * (torch.rand(count, _SHAPES * 2 + 1, device=like.device) < 0.5)
    knots = int(torch.randint(8, max(size // 2, 9), ()))
    texture = F.interpolate(torch.randn(count, planes, knots, knots, device=like.device), (size, size), mode="bilinear")
    image = image + rough.gather(1, labels.flatten(1)).view(labels.shape) * texture
    blur = float(torch.rand(())) * 2.0 + 0.4
    taps = torch.arange(-4, 5, device=like.device, dtype=torch.float32)
    kernel = torch.exp(-0.5 * (taps / (blur * size / 160)) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    flat = F.pad(image.view(-1, 1, size, size), (4, 4, 4, 4), mode="replicate")
    image = F.conv2d(F.conv2d(flat, kernel), kernel.transpose(2, 3)).view(labels.shape)
    coarse = int(torch.randint(size // 6, size, ()))
    grain = F.interpolate(torch.randn(count, planes, coarse, coarse, device=like.device), (size, size), mode="bilinear")
    amount = uniform(0, 0.12, like, count).view(-1, 1, 1, 1)
    return image + grain * amount * torch.where(chosen(0.4, count, like).view(-1, 1, 1, 1), image, 1.0)


def joined(parts: Tuple[Drawn, ...]) -> Drawn:
    """Batches one after another."""
    names = Drawn.__dataclass_fields__
    return Drawn(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})
