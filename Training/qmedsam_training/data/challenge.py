"""Samples from the challenge's ``.npz`` files, as the QMedSAM paper draws them (section 3.1)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Tuple

import numpy as np
from qmedsam import QMedSAMError, Volume
from qmedsam.files.challenge import read_arrays, read_challenge_volume
from qmedsam.frames import Frame
from qmedsam.geometry import View, extent_of
from qmedsam.intensity import Intensity, known_modality

from ..config import DataConfig
from ..synthesis import random_scene
from .augmentation import flipped
from .index import LEAST_PIXELS, ChallengeIndex, Clips, labelled_slices
from .samples import HeldOut, Preparation, Sample, finished, first_drawn, held_out_sample, spread
from .splitting import held_out
from .volumes import VolumeCache


@dataclass(frozen=True)
class Labelled:
    """A decompressed file: image, its intensities, ``(k, j, i)`` labels and the slices that hold one."""

    volume: Volume
    intensity: Intensity
    labels: np.ndarray
    slices: np.ndarray

    @classmethod
    def read(cls, path: Path, modality: str) -> Labelled:
        volume = read_challenge_volume(path)
        labels = read_arrays(path, ("gts",))["gts"]
        labels = labels[None] if labels.ndim == 2 else labels
        return cls(volume, Intensity.of(volume, modality), labels, labelled_slices(labels))

    @property
    def bytes(self) -> int:
        return self.volume.array_kji.nbytes + self.labels.nbytes


class ChallengeData:
    """A :class:`~qmedsam_training.data.samples.Source` over an index of clips.

    Args:
        config: index and how many clips of a modality an epoch draws.
        preparation: of the network.
        seed: of what an epoch draws.

    Raises:
        QMedSAMError: nothing to train on.
    """

    def __init__(self, config: DataConfig, preparation: Preparation, seed: int = 0) -> None:
        assert config.challenge is not None
        self.config, self.preparation, self.seed = config, preparation, seed
        self.index = ChallengeIndex.open(config.challenge)
        self._away = {file for _, file in held_out(self.index.files, config)}
        self.training = self.index.part(lambda file: file not in self._away)
        if not self.training.modalities:
            raise QMedSAMError("Every file of the challenge's folder was held out.", "Lower data.held_out, or add files.")
        self.names = sorted(self.training.modalities)
        sizes = [len(self.training.modalities[name]) for name in self.names]
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._cache = VolumeCache(self._read, lambda value: value.bytes, config.cache_mib)

    @property
    def skipped(self) -> List[Tuple[str, str]]:
        """Files that the index could not use."""
        return list(self.index.broken)

    def describe(self) -> List[Tuple[str, int, int]]:
        """Per modality its name, files and clips."""
        return [(name, len(self.training.modalities[name].files), len(self.training.modalities[name])) for name in self.names]

    def to_come(self, forked: bool) -> int:
        """As if files were as large as those that were read."""
        if not self._cache.bytes:
            self._slice(self.training.modalities[self.names[0]].files[0], 0)
        return self._cache.growth(sum(len(clips.files) for clips in self.training.modalities.values()))

    def epoch(self, number: int) -> np.ndarray:
        """Keys of the clips that an epoch draws: no clip twice, shuffled, re-drawn every epoch, decided by the seed.

        ``min``: as many of each modality as the smallest has (the paper's choice); ``one-tenth``: a tenth of each, not
        fewer than the smallest has; ``all``: everything.
        """
        rng = np.random.default_rng([self.seed, number])
        sizes = np.diff(self.starts)
        least = int(sizes.min())
        keys = []
        for start, size in zip(self.starts, sizes):
            wanted = {"min": least, "one-tenth": max(size // 10, least), "all": size}[self.config.sampler]
            keys.append(start + rng.choice(size, int(wanted), replace=False))
        return rng.permutation(np.concatenate(keys))

    def sample(self, key: int, rng: np.random.Generator) -> Sample:
        """A clip with one of its labels drawn at random; where resampling leaves nothing of it, another clip of the modality."""
        modality = int(np.searchsorted(self.starts, key, side="right")) - 1
        clip = int(key - self.starts[modality])
        clips = self.training.modalities[self.names[modality]]

        def draw(failed: int) -> Optional[Sample]:
            return self._draw(clips, int(rng.integers(len(clips))) if failed else clip, rng)

        return first_drawn(draw, f"the files of '{self.names[modality]}'", self.preparation)

    def _draw(self, clips: Clips, clip: int, rng: np.random.Generator) -> Optional[Sample]:
        size = self.preparation.size
        if rng.random() < self.config.synthetic:
            image, scene = random_scene(rng, size)
            return self._finished(image, np.ones((size, size), bool), scene, rng)
        pixels, labels, view, intensity = self._slice(*clips.locate(clip))
        masks = list(_objects(labels).values())
        mask = masks[rng.integers(len(masks))]
        if rng.random() < self.config.whole_slice:
            frame = Frame.whole_slice(view, size)
        else:
            margin = self.preparation.margin * rng.uniform(0.5, 1.8)
            extent = extent_of(mask)
            assert extent is not None, "an object has pixels"
            frame = Frame.around(extent, view, size, margin)
        drawn, valid = frame.sample(pixels, intensity.apply)
        drawn, valid, drawn_masks = flipped(drawn, valid, frame.sample(mask.astype(np.float32))[0][None], rng)
        return self._finished(drawn, valid, drawn_masks, rng)

    def _finished(self, image: np.ndarray, valid: np.ndarray, masks: np.ndarray, rng: np.random.Generator) -> Optional[Sample]:
        return finished(image, valid, masks, masks, self.preparation, rng, self.config.box_shift)

    def held_out(self) -> List[HeldOut]:
        """Clips of every held-out file, evenly spread over it, the largest label of each."""
        return self.objects(self.index.part(lambda file: file in self._away))

    def objects(self, held: ChallengeIndex) -> List[HeldOut]:
        """Clips of every file of a part of the index."""
        samples, rng = [], np.random.default_rng(0)
        for name in sorted(held.modalities):
            clips = held.modalities[name]
            for number, n in spread(np.diff(clips.ends, prepend=0).tolist(), self.config.held_out_per_group):
                file = clips.files[number]
                pixels, labels, view, intensity = self._slice(file, n)
                mask = max(_objects(labels).values(), key=np.count_nonzero)
                shown = pixels, mask, view, self.preparation
                samples.append(held_out_sample(name, file, *shown, intensity.apply, view.count > 1, self.config, rng))
        return samples

    def _slice(self, file: str, number: int) -> Tuple[np.ndarray, np.ndarray, View, Intensity]:
        """Pixels and labels of the n-th labelled slice of a file, its view and its intensities."""
        labelled = self._cache[file]
        index = int(labelled.slices[number])
        return labelled.volume.array_kji[index], labelled.labels[index], View.of(labelled.volume, 2), labelled.intensity

    def _read(self, file: object) -> Labelled:
        modality = str(file).split("/")[0]
        try:
            known = known_modality(modality)
        except QMedSAMError:
            known = modality  # any folder's name is a modality to balance over; intensities then follow the percentiles
        return Labelled.read(self.training.root / str(file), known)


def _objects(labels: np.ndarray) -> Dict[int, np.ndarray]:
    """The labels of a slice that are large enough, as masks; the largest when none is."""
    values, counts = np.unique(labels[labels > 0], return_counts=True)
    enough = counts >= min(LEAST_PIXELS, counts.max())
    return {int(value): labels == value for value in values[enough]}
