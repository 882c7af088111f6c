"""Cases for an atlas, made here: ellipsoids in anisotropic volumes, ellipses on pictures; and what was drawn of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator, List, Sequence, Tuple

import numpy as np
import torch
from qmedsam.frames import Frame
from qmedsam.geometry import View
from qmedsam_training.atlas import drawing
from qmedsam_training.atlas.store import HU_KNOTS, Atlas, Packed, pack, read_atlas, write_atlas

torch.set_num_threads(1)  # of tensors this small threads wait for each other: many times slower on a busy machine
SPACING = (0.8, 1.1, 2.5)


def ellipse(shape: Sequence[int], center: Sequence[float], radii: Sequence[float]) -> np.ndarray:
    """Boolean; all three in the array's order."""
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    return sum(((g - c) / r) ** 2 for g, c, r in zip(grid, center, radii)) <= 1


def smooth(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    """Waves in 0..1."""
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    phases = rng.uniform(0, 6, len(shape))
    waves = sum(np.sin(g * 0.35 + p) for g, p in zip(grid, phases))
    return np.broadcast_to(0.5 + waves / (2 * len(shape)), shape)


def case(values: np.ndarray, labels: np.ndarray, number: int = 0, **others: Any) -> Packed:
    """Exactly as given, with 3D where there are slices."""
    is_3d = labels.ndim == 3
    fields = {
        "group": "MR/balls" if is_3d else "US/blobs",
        "patient": f"{'balls' if is_3d else 'blobs'}/p{number}",
        "regions": [],
        "spacing_mm": SPACING if is_3d else (1.0, 1.0, 1.0),
        "hounsfield": False,
        **others,
    }
    fields["regions"] = [(k, pack(found.astype(np.int16))) for k, found in fields["regions"]]
    return Packed(values=pack(values.astype(np.uint8)), labels=pack(labels.astype(np.int16)), is_3d=is_3d, **fields)


def volume(rng: np.random.Generator, number: int = 0, hounsfield: bool = False) -> Packed:
    """An ellipsoid brighter than what is around it; in HU with air and bone beside it."""
    shape = (18, 40, 46)
    inside = ellipse(shape, rng.uniform(0.4, 0.6, 3) * shape, rng.uniform(0.22, 0.34, 3) * shape)
    grey = smooth(rng, shape) * 110 + 90 * inside
    if hounsfield:
        units = smooth(rng, shape) * 120 - 60 + 150 * inside
        units[:, :6], units[:, -4:] = -1000, 900
        codes = np.interp(units, *zip(*HU_KNOTS)).round()
        return case(codes, inside, number, hounsfield=True, group="CT/balls")
    return case(grey, inside, number)


def picture(rng: np.random.Generator, number: int = 0, shape: Tuple[int, int] = (70, 90), colour: bool = False) -> Packed:
    """An ellipse, and the picture's halves as regions of a coarser map."""
    inside = ellipse(shape, rng.uniform(0.4, 0.6, 2) * shape, rng.uniform(0.15, 0.3, 2) * shape)
    planes = [smooth(rng, shape) * 120 + share * inside for share in ((90, 60, 30) if colour else (90,))]
    halves = np.ones((shape[0] // 2, shape[1] // 2), np.int16)
    halves[:, halves.shape[1] // 2 :] = 2
    return case(np.stack(planes) if colour else planes[0], inside, number, regions=[(0, halves)])


def atlas_of(cases: Sequence[Packed], folder: Path) -> Atlas:
    """Through a file."""
    write_atlas(folder / "a.atlas", cases)
    return read_atlas(folder / "a.atlas")


def arrays(atlas: Atlas, row: int) -> Tuple[np.ndarray, np.ndarray]:
    """What the atlas holds of a row's case: codes (``k j i`` or ``j i c``) and whether a voxel is the row's object."""
    c = {name: int(column[row]) for name, column in atlas.columns.items() if not name.startswith(("mm", "ratio"))}
    if c["is_3d"]:
        shape: List[int] = [c["nk"], c["nj"], c["ni"]]
    else:
        shape = [3, c["nj"], c["ni"]] if c["colour_0"] else [c["nj"], c["ni"]]
    values = atlas.values[c["at_0"] : c["at_0"] + int(np.prod(shape))].numpy().reshape(shape)
    size = c["nk"] * c["nj"] * c["ni"]
    labels = atlas.labels[c["labels_at"] : c["labels_at"] + size].numpy() == c["label"]
    if c["is_3d"]:
        return values, labels.reshape(shape)
    return np.moveaxis(values, 0, -1) if values.ndim == 3 else values, labels.reshape(shape[-2:])


class Watched(drawing.Slices):
    """Remembers which slices were looked at, and where."""

    last: Watched

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        type(self).last = self

    def values(self, xy: torch.Tensor, *others: Any) -> torch.Tensor:
        self.xy = xy
        return super().values(xy, *others)

    def frame(self, n: int, size: int) -> Frame:
        """That the grid of the ``n``-th one is."""
        (x0, y0), (x1, y1) = self.xy[n, 0, 0].tolist(), self.xy[n, -1, -1].tolist()
        dx, dy = (x1 - x0) / (size - 1), (y1 - y0) / (size - 1)
        return Frame(x0 - dx / 2, y0 - dy / 2, 1 / dx, 1 / dy, size)

    def view(self, n: int) -> View:
        """Of the ``n``-th one, as the engine slices it."""
        c = self.c
        shape = tuple(int(c[name][n]) for name in ("ni", "nj", "nk"))
        return View(int(self.axis[n]), shape, tuple(float(c[f"mm_{a}"][n]) for a in "ijk"))


def rectangles(drawn: drawing.Drawn, watched: Watched, size: int) -> Iterator[Tuple[float, ...]]:
    """The boxes that frames are around, in slice coordinates."""
    for n, (u0, v0, u1, v1) in enumerate(drawn.outer.tolist()):
        f = watched.frame(n, size)
        (x0, x1), (y0, y1) = (
            ((low + 0.5) / scale + start, (high + 0.5) / scale + start)
            for low, high, scale, start in ((u0, u1, f.scale_x, f.left), (v0, v1, f.scale_y, f.top))
        )
        yield x0, y0, x1, y1
