"""From a source to batches: what every rank, worker and resumed run draws is decided by the position alone."""

from __future__ import annotations

import itertools
import math
import signal
from typing import Any, Iterator, List, Optional, Tuple, Union

import numpy as np
import torch
from qmedsam import QMedSAMError
from threadpoolctl import threadpool_limits
from torch import Tensor

from ..architectures import ARCHITECTURES
from ..config import TrainConfig
from .cases import labelled_cases, patients_of
from .challenge import ChallengeData
from .index import ChallengeIndex
from .labelled import LabelledData, objects_of
from .samples import HeldOut, Preparation, Sample, Source, collate
from .splitting import needs_folds

Batch = Tuple[Tensor, Tensor, Tensor, Tensor]
Item = Tuple[int, Tuple[int, int, int]]


def make_source(config: TrainConfig) -> Source:
    """The source that a configuration names, framed for its network.

    Raises:
        QMedSAMError: unknown architecture, or data that cannot be used.
    """
    architecture = ARCHITECTURES.get(config.architecture)
    if architecture is None:
        raise QMedSAMError(f"There is no architecture '{config.architecture}'.", f"Known: {', '.join(ARCHITECTURES)}.")
    preparation = Preparation.of(architecture, config.input_size, config.margin, config.frame)
    if config.data.challenge is not None:
        return ChallengeData(config.data, preparation, config.seed)
    return LabelledData(config.data, preparation)


def scored_objects(config: TrainConfig, split: Optional[str] = None) -> Tuple[List[HeldOut], List[Tuple[str, str]]]:
    """Objects to score on, and the cases that could not be read.

    Args:
        config: data, and the frame of a network.
        split: None: the patients that the configuration holds out; else a split of its manifest. Folders and the challenge's
            files have one, ``train``: all that are not held out.

    Raises:
        QMedSAMError: data that cannot be used, or no such split.
    """
    source = make_source(config)
    if split is None:
        return source.held_out(), source.skipped
    if isinstance(source, ChallengeData):
        if split != "train":
            raise QMedSAMError(f"The challenge's files have no split '{split}'.", "There are 'held-out' and 'train'.")
        return source.objects(source.training), source.skipped
    return objects_of(labelled_cases(config.data, split), config.data, source.preparation)


class Plan(torch.utils.data.Sampler[List[Item]]):
    """Batches of an epoch for one rank: the ranks' parts of a batch never overlap and together are the whole batch.

    Args:
        source: says what an epoch draws.
        batch_size: of all ranks together.
        rank, world: of this process, and how many there are.
        seed: of the run.

    Attributes:
        epoch, first: number of the epoch and of its first batch, set by the loop (a resumed epoch does not start at 0).

    Raises:
        QMedSAMError: the ranks cannot share a batch evenly, or an epoch is smaller than one batch.
    """

    def __init__(self, source: Source, batch_size: int, rank: int = 0, world: int = 1, seed: int = 0) -> None:
        if batch_size % world:
            raise QMedSAMError(f"A batch of {batch_size} cannot be shared by {world} processes.", "Choose a multiple.")
        self.source, self.batch_size, self.rank, self.world, self.seed = source, batch_size, rank, world, seed
        self.epoch, self.first = 0, 0
        self.batches = len(source.epoch(0)) // batch_size
        if not self.batches:
            raise QMedSAMError(
                f"An epoch has {len(source.epoch(0))} samples, fewer than one batch of {batch_size}.", "Lower batch_size."
            )

    def __len__(self) -> int:
        return self.batches - self.first

    def __iter__(self) -> Iterator[List[Item]]:
        keys = self.source.epoch(self.epoch)
        share = self.batch_size // self.world
        for batch in range(self.first, self.batches):
            start = batch * self.batch_size + self.rank * share
            yield [(int(keys[p]), (self.seed, self.epoch, p)) for p in range(start, start + share)]


class Drawn(torch.utils.data.Dataset):
    """A source as a map: an item carries its own seed. An error that users can mend is handed on like a sample."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, item: Item) -> Union[Sample, QMedSAMError]:
        key, seed = item
        try:
            return self.source.sample(key, np.random.default_rng(seed))
        except QMedSAMError as error:
            return error


class Loader(torch.utils.data.DataLoader):
    """Raises what a worker handed on: raised there, it would come back as the text of a traceback."""

    def __iter__(self) -> Any:
        for batch in super().__iter__():
            if isinstance(batch, QMedSAMError):
                raise batch
            yield batch


def _collated(samples: List[Union[Sample, QMedSAMError]]) -> Union[Batch, QMedSAMError]:
    good = [sample for sample in samples if isinstance(sample, Sample)]
    return next((sample for sample in samples if isinstance(sample, QMedSAMError)), None) or collate(good)


def make_loader(plan: Plan, workers: int) -> Loader:
    """Batches of a plan; workers stay alive between epochs."""
    return Loader(
        Drawn(plan.source),
        batch_sampler=plan,
        num_workers=workers,
        collate_fn=_collated,
        worker_init_fn=_quiet,
        persistent_workers=workers > 0,
    )


def calibration_batches(source: Source, config: TrainConfig) -> Iterator[Tuple[Tensor, Tensor, Tensor]]:
    """Images, boxes and owners to initialise activation scales from; the same on every process."""
    assert config.quantization is not None
    return fixed_batches(source, config.seed, 8, config.quantization.calibration_images)


def fixed_batches(source: Source, seed: int, batch: int, images: int) -> Iterator[Tuple[Tensor, Tensor, Tensor]]:
    """Images, boxes and owners of the first samples of the first epoch, at least ``images`` where it has as many."""
    batch = min(batch, images, len(source.epoch(0)))
    batches = make_loader(Plan(source, batch, seed=seed), 0)
    for images_, boxes, _, owner in itertools.islice(batches, math.ceil(images / batch)):
        yield images_, boxes, owner


def folds_of(config: TrainConfig) -> int:
    """In how many folds the patients of a configuration have to be held out in turn; 0: one held-out set, or none, will do.

    Raises:
        QMedSAMError: data that cannot be listed.
    """
    if not config.data.held_out or config.data.fold is not None:
        return 0
    if config.data.challenge is not None:
        return needs_folds(ChallengeIndex.open(config.data.challenge).files, config.data)
    return needs_folds(patients_of(labelled_cases(config.data)), config.data)


def _quiet(_: int) -> None:
    """One BLAS thread: those of several processes on the same cores made a 1 ms product take 13 ms.

    A terminal sends Ctrl-C to workers too, SLURM SIGTERM; whether to stop is decided where the batches go. A second SIGTERM
    ends a worker: Python sends one to those that are left at its own end.
    """
    threadpool_limits(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.signal(signal.SIGTERM, signal.SIG_DFL))
