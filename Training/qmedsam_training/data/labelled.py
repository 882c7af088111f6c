"""Samples from labelled cases: real objects balanced over sources, mixed with synthetic scenes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
from qmedsam import QMedSAMError
from qmedsam.evaluation.cases import Case
from qmedsam.frames import Frame
from qmedsam.geometry import View, extent_of
from torch import Tensor

from ..architectures import Architecture
from ..config import DataConfig
from ..synthesis import random_scene
from .augmentation import repainted, warped, zoomed
from .cases import Cases, Target, labelled_cases, split_off
from .samples import HeldOut, Preparation, Sample, finished, first_drawn, framed, held_out_sample, spread, told


class LabelledData:
    """A :class:`~qmedsam_training.data.samples.Source` over a manifest's or folders' cases.

    Args:
        config: where the cases are and how they are framed.
        preparation: of the network.
        cases: already loaded ones (of the part that trains).

    Attributes:
        skipped: cases that could not be read, with the reason; those of the held-out part once it was asked for.

    Raises:
        QMedSAMError: no case can be used.
    """

    def __init__(self, config: DataConfig, preparation: Preparation, cases: Optional[Cases] = None) -> None:
        self.config, self.preparation = config, preparation
        if cases is None:
            cases = Cases(split_off(labelled_cases(config), config)[0], cache_mib=config.cache_mib)
        self.cases = cases
        self.groups = sorted(self.cases.targets)
        self.skipped: List[Tuple[str, str]] = list(cases.skipped)
        if not self.groups:
            wrong = f" {told(self.skipped)}" if self.skipped else ""
            raise QMedSAMError(f"No labelled case has an object that is large enough.{wrong}", "Check labels and paths.")
        # Square root: a source with 168 images is worth more looks than one with 2, but not 84 times as many.
        weights = np.sqrt([len(self.cases.targets[g]) for g in self.groups])
        self.weights = weights / weights.sum()

    def describe(self) -> List[Tuple[str, int, int]]:
        """Per group its name, cases and prompts."""
        return [(g, len(self.cases.targets[g]), sum(map(len, self.cases.targets[g]))) for g in self.groups]

    def to_come(self, forked: bool) -> int:
        """Nothing where all volumes are in memory already, which forked workers share."""
        return self.cases.to_come(forked)

    def epoch(self, number: int) -> np.ndarray:
        """Positions: what is drawn at one is decided by its seed alone."""
        return np.arange(self.config.samples_per_epoch)

    def sample(self, key: int, rng: np.random.Generator) -> Sample:
        """Draws until augmentation leaves something of the object."""
        return first_drawn(lambda failed: self._draw(rng), "the labelled cases", self.preparation)

    def _draw(self, rng: np.random.Generator) -> Optional[Sample]:
        size, config = self.preparation.size, self.config
        if rng.random() < config.synthetic:
            image, scene = random_scene(rng, size)
            return self._finished(image, np.ones(image.shape[:2], bool), scene, scene, rng)
        cases = self.cases.targets[self.groups[rng.choice(len(self.groups), p=self.weights)]]
        targets = cases[rng.integers(len(cases))]
        target = targets[rng.integers(len(targets))]
        view = self.cases.view(target)
        target, mask, prompt = self._as_propagated(target, view, rng)
        rectangle = extent_of(prompt)
        assert rectangle is not None
        # Drawn larger than needed, so that rotation and warping bring in image and not padding.
        big = int(size * 1.25)
        masks, prompts = [mask], [prompt]
        strength = config.augmentation
        if rng.random() < config.whole_slice:
            frame = zoomed(Frame.whole_slice(view, size), big, rng.uniform(1 - 0.1 * strength, 1 + 0.4 * strength), strength, rng)
            others = self.cases.others(target)
            rng.shuffle(others)
            masks += [self.cases.mask(o, view) for o in others[:3]]
            prompts += masks[1:]
        else:
            margin = self.preparation.margin * rng.uniform(1 - 0.5 * strength, 1 + 0.8 * strength)
            frame = zoomed(Frame.around(rectangle, view, size, margin), big, 1.0, strength, rng)
            shift_x, shift_y = 0.12 * strength * size * rng.uniform(-1, 1, 2)
            frame = replace(frame, left=frame.left + shift_x / frame.scale_x, top=frame.top + shift_y / frame.scale_y)
        try:
            drawn, valid = self.cases.draw(target, view, frame)
        except QMedSAMError:  # no pixel's centre of a thin slice lies in the frame
            return None
        drawn_masks = np.stack([frame.sample(m)[0] for m in masks + prompts])
        drawn, valid, drawn_masks = warped(drawn, valid, drawn_masks, size, strength, rng)
        if rng.random() < 0.85 * strength:
            drawn = repainted(drawn, rng)
        ended = [not mask.any() for mask in masks]
        return self._finished(drawn, valid, drawn_masks[: len(masks)], drawn_masks[len(masks) :], rng, ended)

    def _finished(
        self,
        image: np.ndarray,
        valid: np.ndarray,
        masks: np.ndarray,
        prompts: np.ndarray,
        rng: np.random.Generator,
        ended: Sequence[bool] = (),
    ) -> Optional[Sample]:
        return finished(image, valid, masks, prompts, self.preparation, rng, self.config.box_shift, ended)

    def _as_propagated(self, target: Target, view: View, rng: np.random.Generator) -> Tuple[Target, np.ndarray, np.ndarray]:
        """A target, its mask, and the mask whose extent is the prompt: often not the same in 3D.

        A 3D box's rectangle is larger than the object on most of its slices, and a propagated prompt comes from a
        neighbour; now and then the object has ended already, and nothing is the right answer.
        """
        mask = self.cases.mask(target, view)
        first, last = self.cases.span(target)
        kind = rng.random()
        if last == first or kind >= self.config.propagated:
            return target, mask, mask
        if kind < 0.75 * self.config.propagated:
            reach = int(rng.integers(1, (last - first) // 2 + 2))
            return target, mask, self.cases.mask(target, view, target.index - reach, target.index + reach)
        step = 1 if rng.random() < 0.5 else -1
        end = last if step > 0 else first
        beyond = replace(target, index=end + step * int(rng.integers(1, 4)))
        if not 0 <= beyond.index < view.count:
            return target, mask, mask
        prompt = self.cases.mask(beyond, view, min(end, end - 2 * step), max(end, end - 2 * step))
        return beyond, np.zeros_like(prompt), prompt

    def held_out(self) -> List[HeldOut]:
        """Objects of every patient that :func:`split_off` cut off."""
        held, skipped = objects_of(split_off(labelled_cases(self.config), self.config)[1], self.config, self.preparation)
        self.skipped += [row for row in skipped if row not in self.skipped]
        return held


def objects_of(rows: Sequence[Case], config: DataConfig, preparation: Preparation) -> Tuple[List[HeldOut], List[Tuple[str, str]]]:
    """Objects to score on, evenly spread over the patients of each group and their slices; and cases that could not be read."""
    samples, rng = [], np.random.default_rng(0)
    cases = Cases(rows, slices_per_object=5, cache_mib=config.cache_mib)
    for group in sorted(cases.targets):
        patients: Dict[str, List[Target]] = {}
        for targets in cases.targets[group]:
            case = cases.cases[targets[0].case]
            patients.setdefault(f"{case.source}/{case.patient_id}", []).extend(targets)
        names = sorted(patients)
        for number, n in spread([len(patients[name]) for name in names], config.held_out_per_group):
            target = patients[names[number]][n]
            view = cases.view(target)
            shown = cases.pixels(target, view), cases.mask(target, view), view, preparation
            prepare, in_mm = cases.intensity(target).apply, cases.cases[target.case].is_3d
            samples.append(held_out_sample(group, names[number], *shown, prepare, in_mm, config, rng))
    return samples, cases.skipped


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
    preparation = Preparation.of(architecture)
    cases = LabelledData(DataConfig(manifest=manifest, held_out=0), preparation).cases if manifest else None
    for _ in range(count):
        if cases is None:
            drawn, masks = random_scene(rng, preparation.size)
            valid, rectangle = np.ones(drawn.shape[:2], bool), extent_of(masks[0] > 0.5)
        else:
            group = sorted(cases.targets)[rng.integers(len(cases.targets))]
            targets = cases.targets[group][rng.integers(len(cases.targets[group]))]
            target = targets[rng.integers(len(targets))]
            view = cases.view(target)
            on_slice = extent_of(cases.mask(target, view))
            assert on_slice is not None, "a target has pixels"
            frame = framed(view, on_slice, preparation)
            (drawn, valid), rectangle = cases.draw(target, view, frame), frame.to_network(on_slice)
        image = preparation.normalise(np.clip(drawn, 0, 1), valid)
        yield image[None], torch.tensor([rectangle], dtype=torch.float32), torch.tensor([0])
