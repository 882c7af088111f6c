"""Training samples: real images with masks, and their augmentation. Frames and intensities are the engine's own."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from qmedsam.cases import Case, components, read_manifest
from qmedsam.geometry import Frame, View, extent_of
from qmedsam.intensity import Intensity, normalise
from threadpoolctl import threadpool_limits
from torch import Tensor

from .architectures import Architecture
from .synthesis import random_scene

#: Sources whose targets a box cannot prompt (the data's README): thin lines, hardly visible.
NOT_PROMPTABLE = ("fives", "hvdropdb_ridge", "cpaisd_stroke")


@dataclass(frozen=True)
class Sample:
    """What one training image is: a normalised frame, the boxes on it and their masks."""

    image: Tensor  # 3 x S x S
    boxes: Tensor  # N x 4, network pixels, edges
    masks: Tensor  # N x S x S, 0..1


@dataclass(frozen=True)
class Target:
    """One object on one slice."""

    case: int
    view_axis: int
    index: int
    component: int


class Cases:
    """Labelled cases in memory, with every object on every usable slice listed.

    Args:
        cases: rows of a manifest.
        slices_per_object: how many slices of a 3D object are listed per view (evenly spread); 2D has its one.
    """

    def __init__(self, cases: Sequence[Case], slices_per_object: int = 24) -> None:
        self.cases = list(cases)
        self.volumes, self.intensities, self.objects = [], [], []
        self.targets: Dict[str, List[List[Target]]] = {}
        for number, case in enumerate(self.cases):
            volume, labels = case.load()
            self.volumes.append(volume)
            self.intensities.append(Intensity.of(volume, case.modality))
            parts = [(mask, crop) for _, mask, crop in components(labels, case.is_3d)]
            self.objects.append(parts)
            targets = []
            for c, (mask, crop) in enumerate(parts):
                for axis in (0, 1, 2) if case.is_3d else (2,):
                    along = 2 - axis
                    area = mask.sum(axis=tuple(a for a in (0, 1, 2) if a != along))
                    usable = np.flatnonzero(area >= max(12, 0.02 * area.max()))
                    for s in usable[np.unique(np.linspace(0, len(usable) - 1, slices_per_object).astype(int))]:
                        targets.append(Target(number, axis, int(s) + crop[along].start, c))
            if targets:
                self.targets.setdefault(case.group, []).append(targets)

    def view(self, target: Target) -> View:
        return View.of(self.volumes[target.case], target.view_axis)

    def draw(self, target: Target, view: View, frame: Frame) -> Tuple[np.ndarray, np.ndarray]:
        """The target's slice through a frame, in 0..1, and the pixels on the slice; as the engine does it."""
        pixels = view.slice_of(self.volumes[target.case].array_kji, target.index)
        return frame.sample(pixels, self.intensities[target.case].apply)

    def mask(self, target: Target, view: View, first: Optional[int] = None, last: Optional[int] = None) -> np.ndarray:
        """The object on the target's slice, or its projection onto it from the slices ``first..last`` (both included)."""
        part, crop = self.objects[target.case][target.component]
        out = np.zeros(view.shape_yx, np.float32)
        along = 2 - target.view_axis
        start = (target.index if first is None else first) - crop[along].start
        stop = (target.index if last is None else last) - crop[along].start + 1
        window = [slice(None)] * 3
        window[along] = slice(max(start, 0), max(stop, 0))
        rest = [crop[a] for a in (0, 1, 2) if a != along]
        out[rest[0], rest[1]] = part[tuple(window)].any(axis=along)
        return out

    def span(self, target: Target) -> Tuple[int, int]:
        """First and last slice of the object in the target's view."""
        crop = self.objects[target.case][target.component][1][2 - target.view_axis]
        return crop.start, crop.stop - 1

    def others(self, target: Target) -> List[Target]:
        """Other objects on the same slice."""
        return [
            Target(target.case, target.view_axis, target.index, c)
            for c, (part, crop) in enumerate(self.objects[target.case])
            if c != target.component and crop[2 - target.view_axis].start <= target.index < crop[2 - target.view_axis].stop
        ]


def split_off(cases: Sequence[Case], share: float = 0.12) -> Tuple[List[Case], List[Case]]:
    """Cut a part of the training cases off by patient, to select checkpoints on. Deterministic.

    Sources with fewer than five patients stay whole in the first part: they have nothing to spare.
    """
    patients: Dict[str, set] = {}
    for case in cases:
        patients.setdefault(case.source, set()).add(case.patient_id)
    kept, held = [], []
    for case in cases:
        digest = hashlib.sha256(f"{case.source}/{case.patient_id}".encode()).digest()
        away = len(patients[case.source]) >= 5 and int.from_bytes(digest[:4], "big") / 2**32 < share
        (held if away else kept).append(case)
    return kept, held


class TrainingData(torch.utils.data.IterableDataset):
    """An endless stream of samples: real objects balanced over sources, mixed with synthetic scenes.

    Args:
        manifest: CSV as in :func:`qmedsam.cases.read_manifest`; only its ``train`` split is used.
        size: of the network input.
        synthetic: share of synthetic samples.
        whole_slice: share of real samples whose frame is the whole slice (the rest: around the object).
        margin: of the ROI frame at run time; training draws around it.
        seed: of this stream; every worker adds its own number.
    """

    def __init__(
        self,
        manifest: Path,
        size: int,
        synthetic: float = 0.25,
        whole_slice: float = 0.2,
        margin: float = 0.3,
        seed: int = 0,
        cases: Optional[Cases] = None,
    ) -> None:
        self.size, self.synthetic, self.whole_slice, self.margin, self.seed = size, synthetic, whole_slice, margin, seed
        if cases is None:
            usable = [c for c in read_manifest(manifest, "train") if c.source not in NOT_PROMPTABLE]
            cases = Cases(split_off(usable)[0])
        self.cases = cases
        self.groups = sorted(self.cases.targets)
        # Square root: a source with 168 images is worth more looks than one with 2, but not 84 times as many.
        weights = np.sqrt([len(self.cases.targets[g]) for g in self.groups])
        self.weights = weights / weights.sum()

    def __iter__(self):
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        while True:
            sample = self.draw(rng)
            if sample is not None:
                yield sample

    def draw(self, rng: np.random.Generator) -> Optional[Sample]:
        """One sample, or None when augmentation left nothing of the object."""
        if rng.random() < self.synthetic:
            image, masks = random_scene(rng, self.size)
            return _finish(image, np.ones(image.shape[:2], bool), masks, masks, rng)
        cases = self.cases.targets[self.groups[rng.choice(len(self.groups), p=self.weights)]]
        targets = cases[rng.integers(len(cases))]
        target = targets[rng.integers(len(targets))]
        view = self.cases.view(target)
        target, mask, prompt = self._as_propagated(target, view, rng)
        rectangle = extent_of(prompt)
        assert rectangle is not None
        # Drawn larger than needed, so that rotation and warping bring in image and not padding.
        big = int(self.size * 1.25)
        whole = rng.random() < self.whole_slice
        masks, prompts = [mask], [prompt]
        if whole:
            frame = Frame.whole_slice(view, self.size)
            frame = _zoomed(frame, big, rng.uniform(0.9, 1.4), rng)
            others = self.cases.others(target)
            rng.shuffle(others)
            masks += [self.cases.mask(o, view) for o in others[:3]]
            prompts += masks[1:]
        else:
            margin = self.margin * rng.uniform(0.5, 1.8)
            frame = _zoomed(Frame.around(rectangle, view, self.size, margin), big, 1.0, rng)
            shift = 0.12 * self.size * rng.uniform(-1, 1, 2)
            frame = Frame(
                frame.left + shift[0] / frame.scale_x, frame.top + shift[1] / frame.scale_y, frame.scale_x, frame.scale_y, big
            )
        drawn, valid = self.cases.draw(target, view, frame)
        drawn_masks = np.stack([frame.sample(m)[0] for m in masks + prompts])
        drawn, valid, drawn_masks = _warp(drawn, valid, drawn_masks, self.size, rng)
        if rng.random() < 0.85:
            drawn = _repaint(drawn, rng)
        return _finish(drawn, valid, drawn_masks[: len(masks)], drawn_masks[len(masks) :], rng)

    def _as_propagated(self, target: Target, view: View, rng: np.random.Generator) -> Tuple[Target, np.ndarray, np.ndarray]:
        """A target, its mask, and the mask whose extent is the prompt: often not the same in 3D.

        A 3D box's rectangle is larger than the object on most of its slices, and a propagated prompt comes from a
        neighbour; now and then the object has ended already, and nothing is the right answer.
        """
        mask = self.cases.mask(target, view)
        first, last = self.cases.span(target)
        kind = rng.random()
        if last == first or kind < 0.6:
            return target, mask, mask
        if kind < 0.9:
            reach = int(rng.integers(1, (last - first) // 2 + 2))
            return target, mask, self.cases.mask(target, view, target.index - reach, target.index + reach)
        step = 1 if rng.random() < 0.5 else -1
        end = last if step > 0 else first
        beyond = Target(target.case, target.view_axis, end + step * int(rng.integers(1, 4)), target.component)
        if not 0 <= beyond.index < view.count:
            return target, mask, mask
        prompt = self.cases.mask(beyond, view, min(end, end - 2 * step), max(end, end - 2 * step))
        return beyond, np.zeros_like(prompt), prompt


def _zoomed(frame: Frame, size: int, zoom: float, rng: np.random.Generator) -> Frame:
    """The same centre and scale times ``zoom`` and a little anisotropy, on a square of ``size`` network pixels."""
    stretch = math.exp(rng.normal(0, 0.07))
    scale_x, scale_y = frame.scale_x * zoom * stretch, frame.scale_y * zoom / stretch
    center_x = frame.left + frame.size / frame.scale_x / 2
    center_y = frame.top + frame.size / frame.scale_y / 2
    return Frame(center_x - size / scale_x / 2, center_y - size / scale_y / 2, scale_x, scale_y, size)


def _warp(
    image: np.ndarray, valid: np.ndarray, masks: np.ndarray, size: int, rng: np.random.Generator
) -> Tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rotate, bend and crop to the middle ``size`` pixels; flip and turn by quarters."""
    big = image.shape[0]
    channels = image[..., None] if image.ndim == 2 else image
    stack = np.concatenate([channels.transpose(2, 0, 1), valid[None], masks]).astype(np.float32)
    angle = math.radians(rng.uniform(-25, 25)) if rng.random() < 0.6 else 0.0
    theta = torch.tensor([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0]])
    grid = F.affine_grid(theta[None].float() * (size / big), [1, 1, size, size], align_corners=False)
    if rng.random() < 0.5:
        knots = int(rng.integers(3, 7))
        bend = torch.from_numpy(rng.normal(0, rng.uniform(0.01, 0.05), (1, 2, knots, knots)).astype(np.float32))
        grid = grid + F.interpolate(bend, size=(size, size), mode="bicubic", align_corners=False).permute(0, 2, 3, 1)
    out = F.grid_sample(torch.from_numpy(stack)[None], grid, align_corners=False)[0].numpy()
    if rng.random() < 0.5:
        out = out[:, :, ::-1]
    out = np.rot90(out, k=int(rng.integers(4)), axes=(1, 2)) if rng.random() < 0.5 else out
    n = channels.shape[2]
    drawn = out[:n].transpose(1, 2, 0)
    return (drawn if image.ndim == 3 else drawn[..., 0]).copy(), out[n] > 0.5, out[n + 1 :].copy()


def _repaint(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
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


def _finish(
    image: np.ndarray, valid: np.ndarray, masks: np.ndarray, prompts: np.ndarray, rng: np.random.Generator
) -> Optional[Sample]:
    """Boxes of what is left of the prompts, jittered as users draw them; drops objects that are (almost) gone."""
    boxes, kept = [], []
    for mask, prompt in zip(masks, prompts):
        rectangle = extent_of(prompt > 0.5)
        if rectangle is None or (prompt > 0.5).sum() < 20 or 0 < (mask > 0.5).sum() < 20:
            continue
        boxes.append(jittered(rectangle, rng))
        kept.append(mask)
    if not kept:
        return None
    normal = normalise(image, valid, "zscore", (), ())
    return Sample(
        torch.from_numpy(normal),
        torch.tensor(np.array(boxes), dtype=torch.float32),
        torch.from_numpy(np.stack(kept).astype(np.float32)),
    )


def jittered(rectangle: Sequence[float], rng: np.random.Generator) -> Tuple[float, ...]:
    """Move every side: mostly a little outward, sometimes a little inward, seldom far out (a 3D box's end slices)."""
    x0, y0, x1, y1 = rectangle
    kind = rng.random()
    low, high = (0.0, 0.0) if kind < 0.25 else (-0.02, 0.1) if kind < 0.85 else (0.0, 0.35)
    a, b, c, d = rng.uniform(low, high, 4)
    width, height = x1 - x0, y1 - y0
    return x0 - a * width, y0 - b * height, x1 + c * width, y1 + d * height


def one_thread(_: int) -> None:
    """For DataLoader workers: BLAS threads of several processes on the same cores made a 1 ms product take 13 ms."""
    threadpool_limits(1)


def collate(samples: Sequence[Sample]) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images ``B x 3 x S x S``, boxes ``N x 4``, masks ``N x S x S`` and the image that each box belongs to, ``N``."""
    owner = torch.cat([torch.full((len(s.boxes),), b) for b, s in enumerate(samples)])
    return (
        torch.stack([s.image for s in samples]),
        torch.cat([s.boxes for s in samples]),
        torch.cat([s.masks for s in samples]),
        owner,
    )


def held_out(manifest: Path, size: int, margin: float, per_group: int = 8) -> List[Tuple[str, Sample]]:
    """Fixed samples (no augmentation, tight box, ROI frame) of the patients that :func:`split_off` cut off."""
    usable = [c for c in read_manifest(manifest, "train") if c.source not in NOT_PROMPTABLE]
    cases = Cases(split_off(usable)[1], slices_per_object=5)
    samples = []
    for group in sorted(cases.targets):
        everything = [t for targets in cases.targets[group] for t in targets]
        for n in np.unique(np.linspace(0, len(everything) - 1, per_group).astype(int)):
            view = cases.view(everything[n])
            mask = cases.mask(everything[n], view)
            rectangle = extent_of(mask)
            frame = Frame.around(rectangle, view, size, margin)
            drawn, valid = cases.draw(everything[n], view, frame)
            samples.append(
                (
                    group,
                    Sample(
                        torch.from_numpy(normalise(drawn, valid, "zscore", (), ())),
                        torch.tensor([frame.to_network(rectangle)], dtype=torch.float32),
                        torch.from_numpy(frame.sample(mask)[0])[None],
                    ),
                )
            )
    return samples


def calibration_samples(
    architecture: Architecture, count: int, manifest: Optional[Path] = None, seed: int = 0
) -> Iterator[Tuple[Tensor, Tensor, Tensor]]:
    """Images, boxes and owners as an imported network will see them, one image at a time.

    Args:
        architecture: says how an image is framed and normalised.
        count: number of images.
        manifest: takes objects of its ``train`` split; None takes synthetic scenes.
        seed: of the choice.
    """
    rng = np.random.default_rng(seed)
    cases = Cases(read_manifest(manifest, "train")) if manifest else None
    for _ in range(count):
        if cases is None:
            drawn, masks = random_scene(rng, architecture.input_size)
            valid, rectangle = np.ones(drawn.shape[:2], bool), extent_of(masks[0] > 0.5)
        else:
            group = sorted(cases.targets)[rng.integers(len(cases.targets))]
            targets = cases.targets[group][rng.integers(len(cases.targets[group]))]
            target = targets[rng.integers(len(targets))]
            view = cases.view(target)
            on_slice = extent_of(cases.mask(target, view))
            if architecture.frame["kind"] == "slice":
                frame = Frame.whole_slice(view, architecture.input_size)
            else:
                frame = Frame.around(on_slice, view, architecture.input_size, architecture.frame["margin"])
            (drawn, valid), rectangle = cases.draw(target, view, frame), frame.to_network(on_slice)
        kind = architecture.normalization
        image = normalise(np.clip(drawn, 0, 1), valid, kind["kind"], kind.get("mean", ()), kind.get("std", ()))
        yield torch.from_numpy(image)[None], torch.tensor([rectangle], dtype=torch.float32), torch.tensor([0])
