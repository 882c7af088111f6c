"""What teaching gained, told honestly: a table per target over cases that were not learned from, and what it cost elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Sequence

import numpy as np

from ..selection import ELLIPSE, Estimate, Scores
from .scoring import OTHERS, Outcome
from .settings import FEW

#: Loss that is named, in DSC.
_WORSE = 0.005
#: How a share is said.
_PARTS = {0.25: "a quarter of the way", 0.5: "half-way", 0.75: "three quarters of the way"}
_HEAD = (
    "target",
    "objects",
    "cases",
    "ellipse",
    "before",
    "taught",
    "gain (95 %)",
    "by case",
    "NSD before",
    "taught",
)


@dataclass(frozen=True)
class Findings:
    """Of all folds.

    Attributes:
        outcomes: of every object of cases that the network that found it was not taught with, at the share that the other
            patients chose.
        folds: in how many parts the cases were held out in turn.
        share: how far from the untaught network the handed-over one lies, as all patients chose; 0: not at all.
        others_before, others_taught: DSC on generated objects of other kinds, untaught and of what is handed over.
    """

    outcomes: Sequence[Outcome]
    folds: int
    share: float
    others_before: float
    others_taught: float

    @property
    def scores(self) -> Scores:
        """0: before, 1: taught."""
        rows = self.outcomes
        values = {0: [r.before for r in rows], 1: [r.taught for r in rows], ELLIPSE: [r.ellipse for r in rows]}
        by = {epoch: np.array(of) for epoch, of in values.items()}
        return Scores([r.target for r in rows], [str(r.patient) for r in rows], by)

    @property
    def gain(self) -> Estimate:
        """In DSC, mean over targets."""
        scores = self.scores
        return Estimate.of(scores, scores.by_epoch[1] - scores.by_epoch[0])

    @property
    def gained(self) -> bool:
        """Whether a network other than the untaught one was chosen, and the mean is above that of before."""
        return self.share > 0 and self.gain.mean > 0

    @property
    def patients(self) -> int:
        """How many were scored."""
        return len({outcome.patient for outcome in self.outcomes})

    @property
    def believed(self) -> bool:
        """Whether it is written without being asked for: fewer than :data:`.settings.FEW` patients show no gain.

        With five cases folds said +0.6 points (+0.2 to +1.0) where other patients lost 5.7 (Docs/Evidence/Training/teaching.md).
        """
        return self.gained and self.patients >= FEW

    def of(self, target: str) -> Findings:
        """Those of one target."""
        mine = [outcome for outcome in self.outcomes if outcome.target == target]
        return Findings(mine, self.folds, self.share, self.others_before, self.others_taught)

    @property
    def targets(self) -> List[str]:
        """That were scored."""
        return sorted({outcome.target for outcome in self.outcomes})

    def cells(self) -> List[List[str]]:
        """Rows of the table, and their mean where there are several targets."""
        rows = [self.of(target)._cells(target) for target in self.targets]
        return [*rows, self._cells("mean of targets")] if len(rows) > 1 else rows

    def _cells(self, name: str) -> List[str]:
        scores = self.scores
        means = [scores.mean(scores.by_epoch[epoch]) for epoch in (ELLIPSE, 0, 1)]
        nsd = [
            scores.mean(np.nan_to_num([getattr(outcome, field) for outcome in self.outcomes]))
            for field in ("before_nsd", "taught_nsd")
        ]
        gains: Dict[int, List[float]] = {}
        for outcome in self.outcomes:
            gains.setdefault(outcome.case, []).append(100 * (outcome.taught - outcome.before))
        per_case = [float(np.mean(values)) for values in gains.values()]
        spread = f"{min(per_case):+.1f} to {max(per_case):+.1f}"
        gain = self.gain
        points = gain.points.replace(" points", "") if gain.low == gain.low else f"{100 * gain.mean:+.1f} (one case)"
        numbers = [f"{value:.3f}" for value in means]
        return [name, str(len(self.outcomes)), str(len(gains)), *numbers, points, spread, *(f"{value:.3f}" for value in nsd)]

    def sentences(self) -> List[str]:
        """Whether anything was gained, where something was lost, and what other objects lost."""
        gain = self.gain
        if not self.gained:
            more = "" if self.share else " No network that learned from them is better by more than chance."
            said = [f"Nothing was gained on cases that were not learned from: {gain.points}.{more}"]
        elif self.patients < FEW:
            said = [
                f"{self.patients} patients cannot show that it is better on others: {gain.points} on these, by networks that had"
                f" not learned from them. Others may lose. Add cases: {FEW} patients are a good start."
            ]
        elif gain.low > 0:
            said = [f"On cases that were not learned from it is better than before: {gain.points}."]
        else:
            said = [f"That it is better on other cases is not shown: {gain.points}."]
        lost = [(target, self.of(target).gain.mean) for target in self.targets]
        said += [f"Worse than before: {target} ({100 * mean:+.1f} points)." for target, mean in lost if mean < -_WORSE]
        if 0 < self.share < 1:
            said.append(f"The network lies {_PARTS[self.share]} between the untaught and the taught one: the cases chose so.")
        other = 100 * (self.others_taught - self.others_before)
        said.append(
            f"On {OTHERS} generated objects of other kinds: DSC {self.others_before:.3f} before, "
            f"{self.others_taught:.3f} taught ({other:+.1f} points)."
        )
        return said

    def markdown(self) -> str:
        """The table and the sentences."""
        lines = ["| " + " | ".join(_HEAD) + " |", "|" + "---|" * len(_HEAD)]
        lines += ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in self.cells()]
        how = (
            f"DSC, every case segmented by a network that was not taught with it ({self.folds} folds), boxes up to 5 % too large."
            " The gain is in points of DSC, with its 95 % interval over cases; 'by case' is the smallest and the largest one."
            " How far a network goes from the untaught one was chosen for each case by the others. What is handed over is the"
            " mean of the folds' networks: every case has a part in it."
        )
        return "\n".join([*lines, "", how, "", *self.sentences()]) + "\n"

    def facts(self) -> Dict[str, Any]:
        """For the manifest's scores."""
        scores = self.scores
        gain = self.gain
        return {
            "taught": {
                "cases": len({outcome.case for outcome in self.outcomes}),
                "objects": len(self.outcomes),
                "ellipse_dsc": round(scores.mean(scores.by_epoch[ELLIPSE]), 4),
                "before_dsc": round(scores.mean(scores.by_epoch[0]), 4),
                "dsc": round(scores.mean(scores.by_epoch[1]), 4),
                "share": self.share,
                "gain": [round(value, 4) for value in (gain.mean, gain.low, gain.high) if value == value],
            },
            "others": {"before_dsc": round(self.others_before, 4), "dsc": round(self.others_taught, 4)},
        }


def head() -> Sequence[str]:
    """Of the table's columns."""
    return _HEAD
