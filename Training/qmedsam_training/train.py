"""A run: its folder, its processes, and the folds in which few patients are held out."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, Optional, Tuple

import torch
from filelock import FileLock, Timeout
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from qmedsam import QMedSAMError

from .config import TrainConfig
from .data import folds_of
from .interruption import Interruption
from .networks import make_folder
from .selection import Scores, Verdict, chosen, joined
from .trainer import SCORES, Trainer

Tell = Callable[[float, str], None]
#: What may differ between a run and its continuation.
_FREE = {"epochs", "minutes", "devices", "nodes", "accelerator", "threads", "checkpoint_minutes", "tensorboard", "init"}
_FREE_OF_DATA = {"workers", "cache_mib"}
_LOCK = ".lock"


def run(config: TrainConfig, folder: Path, progress: Tell = lambda share, text: None) -> Path:
    """Train one stage, continuing where an interrupted run of the same folder stopped.

    Where a held-out set of the stated least size would take too many of the patients, they are dealt into folds: as many
    runs, each with one fold held out, choose the epoch together; a last run on all patients goes to that epoch.

    Args:
        config: the stage.
        folder: gets ``last.pt`` (everything needed to resume), ``best.pt`` (averaged weights of the epoch that the held-out
            patients choose), ``final.pt`` and ``top.pt``
            (those of the last epoch and of the best mean), ``log.csv``, ``log.png``, ``scores.csv`` and, at the end,
            ``report.md`` and ``report.json`` (:class:`~qmedsam_training.selection.Verdict`); folds get folders of their own
            in it.
        progress: called by the first process after every batch with the share done and a line of what was reached.

    Returns:
        The path of ``best.pt``.

    Raises:
        QMedSAMError: data or checkpoints cannot be used, the folder holds another run, or another process trains in it.
        KeyboardInterrupt: on Ctrl-C or SIGTERM, after the batch (or the scoring) in progress, saved; a second one does not wait.
    """
    folder = Path(folder)
    make_folder(folder)
    fabric = launched(config)
    first = fabric.global_rank == 0
    tell = progress if first else lambda share, text: None
    with _owned(folder) if first else _nothing(), Interruption() as interruption:
        count = folds_of(config)
        if not count:
            scores, epoch = _stage(config, fabric, folder, tell, interruption)
            verdict = Verdict.of(scores) if scores.epochs else Verdict(epoch, epoch)
        else:
            verdict = _folded(config, fabric, folder, count, tell, interruption)
        if first:
            verdict.save(folder)
    return folder / "best.pt"


def launched(config: TrainConfig) -> Fabric:
    """The processes of a configuration, started; this one seeded.

    Raises:
        QMedSAMError: the machine has no such accelerator, or not as many.
    """
    if config.threads:
        torch.set_num_threads(min(config.threads, os.cpu_count() or config.threads))
    several = config.devices * config.nodes > 1
    try:
        fabric = Fabric(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.nodes,
            precision=config.precision,
            # SAM's decoder carries parts that a box prompt never reaches
            strategy=DDPStrategy(find_unused_parameters=True) if several else "auto",
        )
    except (RuntimeError, ValueError) as error:  # Lightning's MisconfigurationException is none of its own kind
        raise QMedSAMError(
            f"{config.devices} x '{config.accelerator}' cannot be used on this machine.", str(error).strip().splitlines()[0]
        ) from error
    fabric.launch()
    return fabric


def _stage(
    config: TrainConfig, fabric: Fabric, folder: Path, progress: Tell, interruption: Interruption, until: Optional[int] = None
) -> Tuple[Scores, int]:
    """Train in one folder, from where it stands; the scores of its held-out objects, and the last epoch."""
    torch.manual_seed(config.seed)
    state = _previous(config, folder)
    done = state["progress"]["step"] if state else 0
    if fabric.broadcast(done) != done:
        raise QMedSAMError(
            f"The processes do not find the same run in '{folder}'.", "Give a folder that all machines share (-o)."
        )
    trainer = Trainer(config, fabric, folder, state, until)
    trainer.run(progress, interruption)
    return trainer.scores, trainer.at.epoch


def _folded(config: TrainConfig, fabric: Fabric, folder: Path, count: int, progress: Tell, interruption: Interruption) -> Verdict:
    """One run for every fold, and one on all patients to the epoch that they chose together."""
    if config.optimizer.schedule == "plateau":
        raise QMedSAMError("So few patients hold out nobody for a plateau to follow.", "Use the schedule 'cosine'.")
    minutes = config.minutes and config.minutes / (count + 1)
    parts = []
    for fold in range(count):
        place = folder / f"fold-{fold + 1}"
        make_folder(place)
        data = config.data.model_copy(update={"folds": count, "fold": fold})
        own = config.model_copy(update={"data": data, "minutes": minutes})

        def tell(share: float, text: str, fold: int = fold) -> None:
            progress((fold + share) / (count + 1), f"fold {fold + 1} of {count}, {text}")

        scores, _ = _stage(own, fabric, place, tell, interruption)
        if scores.epochs:  # all of a fold's cases may be unreadable
            parts.append(scores)
    if not parts:
        raise QMedSAMError("No held-out patient has an object that can be scored.", "Set data.held_out to 0 to train without.")
    scores = joined(parts)
    kept = chosen(scores)
    own = config.model_copy(update={"data": config.data.model_copy(update={"held_out": 0.0}), "minutes": minutes})
    _stage(own, fabric, folder, lambda s, text: progress((count + s) / (count + 1), f"all, {text}"), interruption, until=kept)
    if fabric.global_rank == 0:
        scores.save(folder / SCORES)
    return Verdict.of(scores, count)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


@contextmanager
def _owned(folder: Path) -> Iterator[None]:
    """A run's folder belongs to one process at a time; what a killed one left half written goes.

    Raises:
        QMedSAMError: another process trains there.
    """
    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise QMedSAMError(
            f"Another process trains in '{folder}' already.", "Wait for it, or give another folder (-o)."
        ) from None
    except OSError as error:
        raise QMedSAMError(f"'{folder}' cannot be written to ({error.strerror}).", "Give another folder (-o).") from error
    try:
        for stump in [*folder.glob(".qmedsam-*"), *folder.glob("fold-*/.qmedsam-*")]:
            shutil.rmtree(stump, ignore_errors=True)
        yield
    finally:
        lock.release()


def _previous(config: TrainConfig, folder: Path) -> Optional[dict]:
    """The state of an interrupted run of this folder.

    Raises:
        QMedSAMError: the folder holds a run of another configuration, or a shorter one whose rate has already fallen.
    """
    path = folder / "last.pt"
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        before = state["config"]
    except Exception as error:
        raise QMedSAMError(f"'{path}' is damaged.", "Remove it to start again, or choose another folder.") from error
    now = config.model_dump(mode="json")
    for settings in (now, before):
        settings["data"] = {name: value for name, value in settings["data"].items() if name not in _FREE_OF_DATA}
    changed = sorted(name for name in now if name not in _FREE and now[name] != before.get(name, now[name]))
    if changed:
        raise QMedSAMError(
            f"'{folder}' holds a run with another {', '.join(changed)}.", "Choose another folder for this configuration."
        )
    if config.optimizer.schedule == "cosine" and state["progress"]["step"]:
        for name in ("epochs", "minutes"):
            if before[name] and (now[name] or float("inf")) > before[name]:
                raise QMedSAMError(
                    f"'{folder}' holds a run of {before[name]:g} {name}: its learning rate falls to nothing there, and a longer "
                    "one would have been another from the start.",
                    f"Go on in a new folder: --init {folder / 'best.pt'} -o NEW.",
                )
    return state
