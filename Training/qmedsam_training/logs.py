"""What a run writes while it goes: a table, its curves, and TensorBoard where it is wanted."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Dict, List

from qmedsam import QMedSAMError
from qmedsam.files import writing

from .plots import plot_log

LOG_COLUMNS = (
    "epoch",
    "step",
    "seconds",
    "samples_per_second",
    "learning_rate",
    "loss",
    "distillation",
    "dsc",
    "held_out_dsc",
    "held_out_mean_of_groups",
)


class Log:
    """``log.csv`` and ``log.png`` of one run, however often resumed, whole at every moment.

    Args:
        folder: of the run.
        tensorboard: whether to write events too.
        epoch: that the run goes on from, -1 at its start: what was written later was not saved, and comes again.

    Raises:
        QMedSAMError: the folder cannot be written to, or TensorBoard is wanted and not installed.
    """

    def __init__(self, folder: Path, tensorboard: bool, epoch: int) -> None:
        self.folder = folder
        self.board = None
        if tensorboard:
            try:
                from lightning_fabric.loggers.tensorboard import TensorBoardLogger

                self.board = TensorBoardLogger(folder, name="", version="tensorboard")
            except ModuleNotFoundError as error:
                raise QMedSAMError(
                    "'tensorboard' is asked for, but not installed.",
                    "pip install tensorboardX, or set it to false.",
                ) from error
        self.rows: List[List[str]] = []
        path = folder / "log.csv"
        if path.exists() and epoch >= 0:
            with path.open(newline="") as stream:
                self.rows = [r for r in list(csv.reader(stream))[1:] if len(r) == len(LOG_COLUMNS) and int(r[0]) <= epoch]
        self._save()

    def write(self, row: tuple) -> None:
        """One epoch: values in the order of :data:`LOG_COLUMNS`."""
        self.rows.append([f"{v:.5g}" if isinstance(v, float) else str(v) for v in row])
        self._save()
        with writing(self.folder / "log.png") as partial:
            plot_log(self.folder / "log.csv", partial)
        if self.board is not None:
            values: Dict[str, float] = dict(zip(LOG_COLUMNS, row))
            self.board.log_metrics({k: v for k, v in values.items() if v == v}, step=int(values["step"]))
            self.board.save()  # finalize() would begin another file with the next row

    def _save(self) -> None:
        with writing(self.folder / "log.csv") as partial, partial.open("w", newline="") as stream:
            csv.writer(stream).writerows([LOG_COLUMNS, *self.rows])
