"""Which epoch is kept and what may be said of it: nothing here knows networks or images, only scores of held-out objects.

The score that chooses is never the score that is reported: what an epoch is worth on a patient is read from the epoch that
all *other* patients choose. Where patients are few they are held out in turn (folds), and the folds' scores are joined.
"""

from __future__ import annotations

import csv
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
from qmedsam import QMedSAMError
from qmedsam.evaluation.scores import bootstrap_interval
from qmedsam.files import writing

#: Stands in the place of an epoch for the ellipse inscribed in every object's box.
ELLIPSE = -1
_COLUMNS = ("epoch", "group", "patient", "dsc")


@dataclass
class Scores:
    """DSC of every held-out object at every epoch.

    Attributes:
        groups, patients: of every object.
        by_epoch: DSC of every object, 0..1; epoch 0 is the start, :data:`ELLIPSE` the ellipse.
    """

    groups: List[str]
    patients: List[str]
    by_epoch: Dict[int, np.ndarray]

    @property
    def epochs(self) -> List[int]:
        """Those that can be kept."""
        return sorted(epoch for epoch in self.by_epoch if epoch >= 0)

    def mean(self, values: np.ndarray, kept: Optional[np.ndarray] = None) -> float:
        """Over the objects of a group, then over the groups; NaN without objects.

        Args:
            values: one per object.
            kept: which objects count; default: all.
        """
        groups = np.asarray(self.groups)
        counted = np.ones(len(groups), bool) if kept is None else kept
        means = [values[(groups == group) & counted].mean() for group in sorted(set(groups[counted].tolist()))]
        return float(np.mean(means)) if means else math.nan

    def interval(self, values: np.ndarray) -> Tuple[float, float]:
        """95 % bootstrap interval of :meth:`mean`; patients are drawn, within their groups.

        A group of one patient does not vary within itself. Where there is such a group, patients are drawn from all groups
        together, and the interval is moved to the mean over groups.
        """
        drawn: Dict[str, Dict[str, List[float]]] = {}
        for group, patient, value in zip(self.groups, self.patients, values):
            drawn.setdefault(group, {}).setdefault(patient, []).append(float(value))
        groups = [list(patients.values()) for _, patients in sorted(drawn.items())]
        if all(len(patients) > 1 for patients in groups):
            return bootstrap_interval(*groups)
        means = [float(np.mean(patient)) for patients in groups for patient in patients]
        low, high = bootstrap_interval([[mean] for mean in means])
        offset = self.mean(values) - float(np.mean(means)) if means else 0.0
        return low + offset, high + offset

    def save(self, path: Path) -> None:
        """As CSV, a row per object and epoch."""
        with writing(path) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(_COLUMNS)
            for epoch, values in sorted(self.by_epoch.items()):
                rows = zip(self.groups, self.patients, values)
                writer.writerows((epoch, group, patient, f"{value:.6f}") for group, patient, value in rows)

    @classmethod
    def read(cls, path: Path) -> Scores:
        """What :meth:`save` wrote.

        Raises:
            QMedSAMError: something else.
        """
        try:
            with path.open(newline="", encoding="utf-8") as stream:
                rows = [(int(r["epoch"]), r["group"], r["patient"], float(r["dsc"])) for r in csv.DictReader(stream)]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise QMedSAMError(f"'{path}' does not hold the scores of a run.", "Start again in another folder.") from error
        by_epoch: Dict[int, List[float]] = {}
        for epoch, _, _, value in rows:
            by_epoch.setdefault(epoch, []).append(value)
        first = [row for row in rows if row[0] == rows[0][0]]
        return cls([r[1] for r in first], [r[2] for r in first], {e: np.array(v) for e, v in by_epoch.items()})


def joined(parts: Sequence[Scores]) -> Scores:
    """The scores of several folds as those of one run: the epochs that all have, the objects of each."""
    common = set.intersection(*(set(part.by_epoch) for part in parts))
    by_epoch = {epoch: np.concatenate([part.by_epoch[epoch] for part in parts]) for epoch in common}
    return Scores([g for part in parts for g in part.groups], [p for part in parts for p in part.patients], by_epoch)


def chosen(scores: Scores, without: Optional[str] = None) -> int:
    """The last epoch, unless another one is better by more than chance: then the one of the best mean.

    A schedule makes the last epoch the best one, as a rule; the largest of several means that differ by chance is nothing
    to follow. More than chance is more than one standard error, over patients, of the difference to the last epoch.

    Args:
        scores: of a run, or of its folds joined.
        without: a patient whose objects do not count.
    """
    kept = np.array([patient != without for patient in scores.patients], bool)
    best = top(scores, kept)
    last = scores.epochs[-1]
    gain = scores.by_epoch[best] - scores.by_epoch[last]
    return best if scores.mean(gain, kept) > standard_error(gain[kept], np.asarray(scores.patients)[kept]) else last


def top(scores: Scores, kept: Optional[np.ndarray] = None) -> int:
    """The epoch of the best mean, the latest of equal ones."""
    return max(scores.epochs, key=lambda epoch: (scores.mean(scores.by_epoch[epoch], kept), epoch))


def standard_error(values: np.ndarray, patients: np.ndarray) -> float:
    """Of the mean over patients; 0 where there is one alone, of whose chance nothing is known."""
    means = [values[patients == patient].mean() for patient in sorted(set(patients.tolist()))]
    return float(np.std(means, ddof=1) / len(means) ** 0.5) if len(means) > 1 else 0.0


def unseen(scores: Scores) -> np.ndarray:
    """DSC of every object at the epoch that the other patients choose; NaN where there is no other patient."""
    values = np.full(len(scores.patients), math.nan)
    everyone = sorted(set(scores.patients))
    if len(everyone) > 1:
        for patient in everyone:
            own = np.array([p == patient for p in scores.patients])
            values[own] = scores.by_epoch[chosen(scores, patient)][own]
    return values


@dataclass(frozen=True)
class Estimate:
    """A mean over groups and its 95 % interval over patients; both 0..1, or differences of such."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, scores: Scores, values: np.ndarray) -> Estimate:
        """Of one value per object."""
        return cls(scores.mean(values), *scores.interval(values))

    def __str__(self) -> str:
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f})"

    @property
    def points(self) -> str:
        """As a difference."""
        return f"{100 * self.mean:+.1f} points ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


@dataclass(frozen=True)
class Verdict:
    """What a run kept, and what its held-out patients say about it.

    Attributes:
        kept, epochs: the epoch of the weights that are kept, of how many; 0 is the start.
        patients, objects, folds: that chose it; folds 0: one set that was held out throughout.
        chose: the score that chose, too good by having been chosen.
        best: what the kept weights are worth, every patient scored at the epoch that the others choose.
        last, start, ellipse: the last epoch, epoch 0 (none from random weights), the ellipse in the same boxes.
        gain: of ``best`` over the start, or over the ellipse where there is no start to compare with.
    """

    kept: int
    epochs: int
    patients: int = 0
    objects: int = 0
    folds: int = 0
    chose: Optional[float] = None
    best: Optional[Estimate] = None
    last: Optional[Estimate] = None
    start: Optional[Estimate] = None
    ellipse: Optional[Estimate] = None
    gain: Optional[Estimate] = None

    @classmethod
    def of(cls, scores: Scores, folds: int = 0) -> Verdict:
        """Of a run's scores, those of its folds joined."""
        epochs, kept, best = scores.epochs, chosen(scores), unseen(scores)
        others = {"last": epochs[-1], "start": 0, "ellipse": ELLIPSE}
        estimates = {k: Estimate.of(scores, scores.by_epoch[e]) for k, e in others.items() if e in scores.by_epoch}
        known = not np.isnan(best).any()
        before = scores.by_epoch.get(0, scores.by_epoch.get(ELLIPSE))
        return cls(
            kept,
            epochs[-1],
            len(set(scores.patients)),
            len(scores.patients),
            folds,
            scores.mean(scores.by_epoch[kept]),
            Estimate.of(scores, best) if known else None,
            gain=Estimate.of(scores, best - before) if known and before is not None else None,
            **estimates,
        )

    @property
    def learned(self) -> Optional[bool]:
        """Whether it is better than what it started from; None where the held-out patients cannot tell."""
        if self.kept == 0:
            return False
        if self.gain is None or not self.gain.low > 0:  # NaN too
            return None
        return True

    def sentences(self) -> List[str]:
        """What was kept, who chose it, and whether anything was learned."""
        if not self.patients:
            text = "Nobody was held out, so nothing was chosen and nothing says how good they are."
            return [f"Kept: the averaged weights of the last epoch ({self.kept} of {self.epochs}). {text}"]
        who = f"{self.patients} patients that were held out" + (f", in {self.folds} folds" if self.folds else "")
        if self.kept == 0:
            return [f"Kept: the start (epoch 0 of {self.epochs}): nothing was learned that {who} could show."]
        again = ", trained again on all patients" if self.folds else ""
        said = [f"Kept: the averaged weights of epoch {self.kept} of {self.epochs}{again}, chosen by {who}."]
        if self.gain is None:
            return [*said, "One patient alone can choose, but not say what the choice is worth."]
        than = "what it started from" if self.start else "the ellipse in the same boxes"
        if self.learned:
            return [*said, f"On patients that did not choose it is better than {than}: {self.gain.points}."]
        return [*said, f"That it is better than {than} is not shown: {self.gain.points}."]

    def table(self) -> List[Tuple[str, str, str]]:
        """Rows of weights, epoch, and DSC with its interval."""
        rows = [
            ("start", "0", self.start),
            ("best (kept)", str(self.kept), self.best),
            ("last", str(self.epochs), self.last),
            ("ellipse in the box", "", self.ellipse),
        ]
        return [(name, epoch, str(estimate)) for name, epoch, estimate in rows if estimate is not None]

    def save(self, folder: Path) -> None:
        """``report.json`` and, to read, ``report.md``."""
        lines = [*self.sentences(), "", "| weights | epoch | DSC (95 % interval over patients) |", "|---|---|---|"]
        lines += ["| " + " | ".join(row) + " |" for row in self.table()]
        if self.best is not None:
            lines += [
                "",
                f"The score that chose was {self.chose:.3f}; *best* is of each patient at the epoch that the others choose.",
            ]
        if self.folds:
            lines += ["", "Scores are of the folds' networks; the one that is kept has seen every patient."]
        with writing(folder / "report.md") as partial:
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
        with writing(folder / "report.json") as partial:
            partial.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Verdict:
        """Of a finished run's folder.

        Raises:
            QMedSAMError: the run is not finished.
        """
        try:
            values = json.loads((folder / "report.json").read_text(encoding="utf-8"))
            estimates = ("best", "last", "start", "ellipse", "gain")
            told: Dict[str, Any] = {k: Estimate(**v) if k in estimates and v else v for k, v in values.items()}
            return cls(**told)
        except (OSError, ValueError, TypeError) as error:
            raise QMedSAMError(f"'{folder}' holds no finished run.", "Go on with it: the command that started it.") from error
