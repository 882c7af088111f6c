"""Frames around objects of an atlas, thousands at a time: what the network will see, and the truth on it.

Frames of reference: *slice* coordinates are pixels with centres at integers (:mod:`qmedsam.geometry`); *q* is the slice in mm,
turned and mirrored at random about the object's middle; *network* pixels are the frame's. Rectangles are edges
``x0, y0, x1, y1``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F
from qmedsam.intensity import CT_WINDOWS
from torch import Tensor

from .store import HU_KNOTS, LEVELS, Atlas

#: Side of the first look, which finds an object's extent once it is turned.
_LOOK = 64
#: How often the three :data:`~qmedsam.network.KINDS` are asked of pictures, and of volumes, by what a network is for.
KINDS_ASKED: Dict[str, Tuple[Tuple[float, float, float], Tuple[float, float, float]]] = {
    "volumes": ((0.5, 0.3, 0.2), (0.25, 0.45, 0.3)),
    "slices": ((0.9, 0.05, 0.05), (0.9, 0.05, 0.05)),
}


@dataclass(frozen=True)
class Habits:
    """How frames are drawn.

    Args:
        size: network pixels along a side.
        margin: around the prompt, as at run time.
        strength: 0..1, of turning, bending and zooming; 0 draws as the engine does.
        kinds: one of :data:`KINDS_ASKED`.
        depth_px: distance of the slices before and behind, in network pixels.
        flat: share of volumes' slices whose neighbours are not shown.
        walked: of those, the share that is drawn with the slice that a walk comes from as first colour (:attr:`Drawn.walked`).
        wide: share of frames that show far more than the prompt.
    """

    size: int = 160
    margin: float = 0.3
    strength: float = 0.5
    kinds: Tuple[Tuple[float, float, float], Tuple[float, float, float]] = KINDS_ASKED["volumes"]
    depth_px: float = 4.0
    flat: float = 0.25
    walked: float = 0.0
    wide: float = 0.06


@dataclass
class Drawn:
    """Frames and what is true on them; ``B`` of them.

    Attributes:
        image: ``B x 3 x S x S`` in 0..1.
        valid: ``B x S x S``, on the slice.
        mask: ``B x S x S`` in 0..1.
        beside: the object on a neighbouring slice, likewise; the mask itself where there is none.
        neighbour: whether ``beside`` is another slice's.
        walked: whether the image's first channel is that slice, in the same frame, and the other two are this one.
        is_3d: whether the channels are slices, not colours.
        kind: index into :data:`~qmedsam.network.KINDS`.
        outer: ``B x 4``, the box that the frame is around, network pixels.
        growth: ``B x 4``, by which shares of its sides a tight box is too large: left, top, right, bottom.
    """

    image: Tensor
    valid: Tensor
    mask: Tensor
    beside: Tensor
    neighbour: Tensor
    walked: Tensor
    is_3d: Tensor
    kind: Tensor
    outer: Tensor
    growth: Tensor


def uniform(low: float, high: float, like: Tensor, *shape: int) -> Tensor:
    """Random numbers on the device of ``like``."""
    return torch.rand(*shape, device=like.device) * (high - low) + low


def chosen(share: float, count: int, like: Tensor) -> Tensor:
    """``count`` booleans, true with the probability ``share``."""
    return torch.rand(count, device=like.device) < share


def extent(mask: Tensor) -> Tuple[Tensor, Tensor]:
    """Edges of boolean maps ``B x H x W`` in their own pixels (``B x 4``), and which of them are not empty."""
    edges = []
    for along in (1, 2):  # rows collapsed: columns with the object
        line = mask.any(along)
        count = line.shape[1]
        first = line.float().argmax(1)
        last = count - 1 - line.flip(1).float().argmax(1)
        edges.append((first - 0.5, last + 0.5))
    (x0, x1), (y0, y1) = edges
    return torch.stack([x0, y0, x1, y1], 1).float(), mask.flatten(1).any(1)


def grown(rectangle: Tensor, shares: Tensor) -> Tensor:
    """Every side moved outward by a share of the rectangle's length; both ``B x 4``."""
    sides = (rectangle[:, 2:] - rectangle[:, :2]).repeat(1, 2)
    return rectangle + shares * sides * rectangle.new_tensor([-1.0, -1.0, 1.0, 1.0])


class Slices:
    """The planes that a batch of objects is looked at on: strides, sizes and places of every one."""

    def __init__(self, atlas: Atlas, rows: Tensor, habits: Habits) -> None:
        self.atlas, self.habits = atlas, habits
        self.c: Dict[str, Tensor] = {name: column[rows] for name, column in atlas.columns.items()}
        c, count = self.c, len(rows)
        self.walks = (c["is_3d"] == 1) & (c["region"] == 0)
        sizes = torch.stack([c["ni"], c["nj"], c["nk"]], 1)
        self.axis = self._axis(sizes, count)
        # in_plane of qmedsam.geometry.View: the other two axes in their order
        x_axis, y_axis = (self.axis == 0).long(), 2 - (self.axis == 2).long()
        stride = torch.stack([torch.ones_like(c["ni"]), c["ni"], c["area"]], 1)
        label_stride = torch.stack([torch.ones_like(c["ni"]), c["label_columns"], c["label_columns"] * c["label_rows"]], 1)
        mm = torch.stack([c["mm_i"], c["mm_j"], c["mm_k"]], 1).float()
        ratio = torch.stack([c["ratio_x"], c["ratio_y"], torch.ones_like(c["ratio_x"])], 1).float()
        low, high = (torch.stack([c[f"{a}{n}"] for a in "ijk"], 1) for n in (0, 1))

        def of(table: Tensor, axis: Tensor) -> Tensor:
            return table.gather(1, axis[:, None])[:, 0]

        self.nx, self.ny, self.nz = (of(sizes, a) for a in (x_axis, y_axis, self.axis))
        self.stride = tuple(of(stride, a) for a in (x_axis, y_axis, self.axis))
        self.label_stride = tuple(of(label_stride, a) for a in (x_axis, y_axis, self.axis))
        self.mm = torch.stack([of(mm, x_axis), of(mm, y_axis)], 1)
        self.mm_z = of(mm, self.axis)
        self.ratio = torch.stack([of(ratio, x_axis), of(ratio, y_axis)], 1)
        start = torch.stack([of(low, x_axis), of(low, y_axis)], 1) / self.ratio - 0.5
        stop = torch.stack([of(high, x_axis), of(high, y_axis)], 1) / self.ratio - 0.5
        self.bounds = torch.cat([start, stop], 1)  # of the whole object, over all slices
        first, beyond = of(low, self.axis), of(high, self.axis)
        # The box is a little longer than the object: slices beyond its ends are asked as well.
        reach = 0.1 * (beyond - first) + 1
        z = first - reach + torch.rand(count, device=rows.device) * (beyond - 1 - first + 2 * reach)
        z = torch.where(self.walks, z.round().long(), first)
        self.z = z.clamp(torch.zeros_like(z), self.nz - 1)
        inward = torch.where(self.z * 2 < first + beyond, 1, -1)
        step = torch.randint(1, 4, (count,), device=rows.device) * torch.where(chosen(0.85, count, z), inward, -inward)
        self.z_beside = torch.where(self.walks, (self.z + step).clamp(torch.zeros_like(z), self.nz - 1), self.z)

    def _axis(self, sizes: Tensor, count: int) -> Tensor:
        """Along which the slices lie: any of a volume whose slices are no mere strips."""
        possible = torch.stack([sizes[:, [b for b in (0, 1, 2) if b != a]].amin(1) >= 8 for a in (0, 1, 2)], 1).double()
        possible[:, 2] += 1e-9
        drawn = torch.multinomial(possible, 1)[:, 0]
        return torch.where(self.walks, drawn, torch.full_like(drawn, 2))

    def labels(self, xy: Tensor, *slices: Tensor) -> List[Tensor]:
        """Whether points (``B x h x w x 2``, slice coordinates) are the object's on each of some slices: the nearest pixel's."""
        c = self.c
        at = ((xy + 0.5) * self.ratio[:, None, None] - 0.5).round().int()
        limit = torch.stack(
            [
                torch.where(self.walks, self.nx, c["label_columns"]),
                torch.where(self.walks, self.ny, c["label_rows"]),
            ],
            1,
        )[:, None, None]
        on = ((at >= 0) & (at < limit)).all(-1)
        at = at.clamp(min=0).minimum(limit.int() - 1)
        sx, sy, _ = (s[:, None, None] for s in self.label_stride)
        place = at[..., 0] * sx + at[..., 1] * sy
        label = c["label"][:, None, None]
        starts = (c["labels_at"] + torch.where(self.walks, z, 0) * self.label_stride[2] for z in slices)
        return [(self.atlas.labels[place + start[:, None, None]] == label) & on for start in starts]

    def values(self, xy: Tensor, spacing: Tensor, planes: Tensor, shown: Tensor) -> Tensor:
        """Grey values or colours at points, linear between pixels: ``B x 3 x h x w`` in 0..1.

        Args:
            xy: ``B x h x w x 2``.
            spacing: of the points in pixels, ``B``: pictures are read from the level whose pixels are about as large.
            planes: of volumes, the slice that is shown in each colour, ``B x 3``.
            shown: what a code stands for, ``B x 256``: windowed before it is interpolated, as in the engine.
        """
        c = self.c
        flat = c["is_3d"] == 0
        level = torch.log2(spacing.clamp(min=1e-3)).round().clamp(min=0).long().minimum(c["levels"] - 1)

        def at_level(name: str) -> Tensor:
            return torch.stack([c[f"{name}_{n}"] for n in range(LEVELS)], 1).gather(1, level[:, None])[:, 0]

        factor = (2.0**level)[:, None, None, None]
        point = (xy + 0.5) / factor - 0.5
        nx = torch.where(flat, at_level("columns"), self.nx)[:, None, None]
        ny = torch.where(flat, at_level("rows"), self.ny)[:, None, None]
        sx = self.stride[0][:, None, None]
        sy = torch.where(flat, at_level("columns"), self.stride[1])[:, None, None]
        x, y = point[..., 0].clamp(min=0).minimum(nx - 1.0), point[..., 1].clamp(min=0).minimum(ny - 1.0)
        x0, y0 = x.floor(), y.floor()
        fx, fy = (x - x0)[:, None], (y - y0)[:, None]
        x0, y0 = x0.long(), y0.long()
        right = torch.where(x0 + 1 < nx, sx, 0)[:, None]
        below = torch.where(y0 + 1 < ny, sy, 0)[:, None]
        colours = []
        for n in range(3):
            slice_ = planes[:, n].clamp(torch.zeros_like(self.z), self.nz - 1)
            colours.append(at_level("at") + n * at_level("colour") + torch.where(flat, 0, slice_ * self.stride[2]))
        start = torch.stack(colours, 1)[..., None, None] + (x0 * sx + y0 * sy)[:, None]

        def read(at: Tensor) -> Tensor:
            return shown.gather(1, self.atlas.values[at].flatten(1).long()).view(at.shape)

        upper = read(start) * (1 - fx) + read(start + right) * fx
        lower = read(start + below) * (1 - fx) + read(start + below + right) * fx
        return upper * (1 - fy) + lower * fy


def draw(atlas: Atlas, rows: Tensor, habits: Habits, kind: Optional[Tensor] = None) -> Drawn:
    """Frames around objects.

    Args:
        atlas: on the device where all of this happens.
        rows: of the atlas' table, ``B``.
        habits: how.
        kind: of box to ask for, ``B``; drawn where None.
    """
    slices = Slices(atlas, rows, habits)
    count, size, strength = len(rows), habits.size, habits.strength
    like = slices.bounds
    if kind is None:
        shares = torch.tensor(habits.kinds, device=rows.device)[slices.walks.long()]
        kind = torch.multinomial(shares, 1)[:, 0]
    turn = _turns(count, strength, slices.walks, like)
    middle = (slices.bounds[:, :2] + slices.bounds[:, 2:]) / 2

    def to_slice(q: Tensor) -> Tensor:
        """Points ``B x ... x 2`` in q to slice coordinates."""
        shape = (count,) + (1,) * (q.dim() - 2) + (2,)
        return torch.einsum("bij,b...j->b...i", turn, q) / slices.mm.view(shape) + middle.view(shape)

    back = torch.linalg.inv(turn)
    whole = _around(slices.bounds, middle, slices.mm, back)
    size_yx = torch.stack([slices.nx, slices.ny], 1).float() - 0.5
    image = _around(torch.cat([torch.full_like(size_yx, -0.5), size_yx], 1), middle, slices.mm, back)
    # First look: what the object's own extent is, on this slice and turned.
    side = (whole[:, 2:] - whole[:, :2]).amax(1) * 1.05
    grid = _grid(_LOOK, like)
    center = (whole[:, :2] + whole[:, 2:]) / 2
    seen = slices.labels(to_slice(center[:, None, None] + grid * side[:, None, None, None]), slices.z)[0]
    edges, found = extent(seen)
    own = center.repeat(1, 2) + ((edges + 0.5) / _LOOK - 0.5) * side[:, None]
    base = torch.where((slices.walks & (kind > 0) | ~found)[:, None], whole, own)
    kind = torch.where(found, kind, kind.clamp(min=1))  # nobody draws a box around nothing
    growth = _growth(kind, slices.walks, like)
    outer = grown(base, growth)
    outer = torch.cat([outer[:, :2].maximum(image[:, :2]), outer[:, 2:].minimum(image[:, 2:])], 1)
    sides = (outer[:, 2:] - outer[:, :2]).amax(1).maximum(2 * slices.mm.amax(1))
    zoom = torch.exp(torch.randn(count, device=like.device) * 0.14 * strength)
    wide = torch.where(chosen(habits.wide, count, like), uniform(1.3, 3.5, like, count), 1.0)
    side = sides * (1 + 2 * habits.margin) * zoom * (wide if strength else 1.0)
    center = (outer[:, :2] + outer[:, 2:]) / 2 + torch.randn(count, 2, device=like.device) * 0.05 * strength * side[:, None]
    # Second look: the frame itself.
    bend = _bend(count, size, strength, like)
    place = center[:, None, None] + (_grid(size, like) + bend) * side[:, None, None, None]
    xy = to_slice(place)
    valid = ((xy >= -0.5) & (xy <= size_yx[:, None, None])).all(-1)
    spacing = side / size / slices.mm.amin(1)
    apart = (habits.depth_px * side / size / slices.mm_z).round().clamp(min=1).long()
    alone = chosen(habits.flat, count, like)
    apart = torch.where((slices.c["is_3d"] == 1) & ~alone, apart, 0)
    neighbour = slices.walks & (slices.z_beside != slices.z)  # at a volume's end there may be none
    walked = neighbour & alone & chosen(habits.walked, count, like)
    planes = torch.stack([torch.where(walked, slices.z_beside, slices.z - apart), slices.z, slices.z + apart], 1)
    values = slices.values(xy, spacing, planes, _windows(slices.c["hounsfield"] == 1, strength))
    fine = F.interpolate(xy.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear", align_corners=False)
    fine = fine.permute(0, 2, 3, 1)
    found_on = slices.labels(fine, slices.z, slices.z_beside)
    mask, beside = (F.avg_pool2d(found.float()[:, None], 2)[:, 0] * valid for found in found_on)
    box = ((outer - center.repeat(1, 2)) / side[:, None] + 0.5) * size - 0.5
    is_3d = slices.c["is_3d"] == 1
    return Drawn(values * valid[:, None], valid, mask, beside, neighbour, walked, is_3d, kind, box, growth)


def _grid(size: int, like: Tensor) -> Tensor:
    """Centres of ``size x size`` pixels over -0.5..0.5, ``1 x size x size x 2`` (x, y)."""
    axis = (torch.arange(size, device=like.device) + 0.5) / size - 0.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], -1)[None]


def _around(rectangle: Tensor, middle: Tensor, mm: Tensor, back: Tensor) -> Tensor:
    """The upright rectangle in q around one of the slice, ``B x 4``."""
    x, y = rectangle[:, [0, 2, 0, 2]], rectangle[:, [1, 1, 3, 3]]
    corners = (torch.stack([x, y], -1) - middle[:, None]) * mm[:, None]
    turned = torch.einsum("bij,bnj->bni", back, corners)
    return torch.cat([turned.amin(1), turned.amax(1)], 1)


def _turns(count: int, strength: float, walks: Tensor, like: Tensor) -> Tensor:
    """``B x 2 x 2`` from q to the slice in mm: turned, mirrored, a little stretched."""
    most = torch.where(walks, 12.0, 25.0)
    angle = uniform(-1, 1, like, count) * most * chosen(0.6 * strength, count, like) / 180 * math.pi
    quarters = torch.randint(0, 4, (count,), device=like.device) * chosen(0.5 * strength, count, like)
    angle = angle + quarters * (math.pi / 2)
    stretch = torch.exp(torch.randn(count, device=like.device) * 0.07 * strength)
    flip = torch.where(chosen(0.5 if strength else 0.0, count, like), -1.0, 1.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    rows = [torch.stack([cos * stretch * flip, -sin / stretch], 1), torch.stack([sin * stretch * flip, cos / stretch], 1)]
    return torch.stack(rows, 1)


def _growth(kind: Tensor, walks: Tensor, like: Tensor) -> Tensor:
    """By which shares of its sides a box is larger than what it is around, ``B x 4``.

    Tight: mostly exact or a tenth too large, seldom a third (a user's hand). A 3D box's cut: of a volume the box itself is
    at hand; on a picture, one-sided and up to three times the object along each axis, as on the slices of real ones.
    """
    count = len(kind)
    draw = torch.rand(count, 1, device=like.device)
    hand = torch.where(
        draw < 0.25, 0.0, torch.where(draw < 0.85, uniform(-0.02, 0.1, like, count, 4), uniform(0, 0.35, like, count, 4))
    )
    box = torch.where(draw < 0.85, uniform(0, 0.1, like, count, 4), uniform(0, 0.3, like, count, 4))
    more = torch.exp(uniform(0, math.log(3.0), like, count, 2)) - 1
    split = torch.rand(count, 2, device=like.device)
    loose = torch.cat([more * split, more * (1 - split)], 1)
    volume = torch.where(walks[:, None], box, loose)
    return torch.where((kind == 0)[:, None], hand, volume)


def _bend(count: int, size: int, strength: float, like: Tensor) -> Tensor:
    """Smooth random shifts, ``B x S x S x 2``, in parts of the frame."""
    amount = uniform(0.01, 0.04, like, count) * chosen(0.5 * strength, count, like)
    knots = torch.randn(count, 2, 5, 5, device=like.device) * amount[:, None, None, None]
    return F.interpolate(knots, size=(size, size), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)


def _windows(hounsfield: Tensor, strength: float) -> Tensor:
    """What the 256 codes stand for in 0..1, ``B x 256``; those that mean HU through a window, mostly the abdomen's."""
    device, count = hounsfield.device, len(hounsfield)
    codes = torch.arange(256, device=device, dtype=torch.float32)
    plain = (codes / 255).expand(count, 256)
    if not bool(hounsfield.any()):
        return plain
    units = torch.full_like(codes, HU_KNOTS[0][0])
    for (a, first), (b, last) in zip(HU_KNOTS[:-1], HU_KNOTS[1:]):
        units = units + (codes.clamp(first, last) - first) * ((b - a) / (last - first))
    names = ("abdomen", "abdomen", "abdomen", "mediastinum", "bone", "lung") if strength else ("abdomen",)
    table = torch.tensor([CT_WINDOWS[name] for name in names], device=device)
    window = table[torch.randint(0, len(names), (count,), device=device)]
    width = window[:, 0] * torch.exp(torch.randn(count, device=device) * 0.3 * strength)
    low = window[:, 1] - width / 2
    return torch.where(hounsfield[:, None], ((units - low[:, None]) / width[:, None]).clamp(0, 1), plain)
