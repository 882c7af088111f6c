"""How far a taught network goes from the untaught one: chosen by the user's own cases, found by networks that have not seen them.

A network between the two (every weight of the decoder a share of the way: Wortsman and others 2022) keeps more of what the
untaught one knew. With few cases, or cases unlike each other, less is better; nothing at all is a choice, too.
"""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import numpy as np

from ..selection import Scores, standard_error
from .scoring import SHARES, Outcome, Tried

#: Standard errors, over patients, by which a smaller step may be behind the best one.
SURE = 1.0


def decided(tried: Sequence[Tried]) -> Tuple[float, List[Outcome]]:
    """The share that all patients choose, and every object at the share that the *other* patients choose.

    What chooses is never what is reported.

    Args:
        tried: objects of all folds.
    """
    by = {n: np.array([one.dsc[n] for one in tried]) for n in range(len(SHARES))}
    scores = Scores([one.target for one in tried], [str(one.patient) for one in tried], by)
    by_others = {patient: _chosen(scores, patient) for patient in set(scores.patients)}
    found = []
    for one in tried:
        n = by_others[str(one.patient)]
        values = (one.dsc[0], one.dsc[n], one.ellipse, one.nsd[0], one.nsd[n])
        found.append(Outcome(one.case, one.patient, one.target, *values))
    return SHARES[_chosen(scores)], found


def _chosen(scores: Scores, without: Optional[str] = None) -> int:
    """The smallest share that is as good as the best one, to a standard error; none where nothing is gained.

    A share is a candidate when the mean gains and more than half of the patients do: what one patient gains by luck is not to be
    handed over. A fold's network knows two thirds of the cases and is not averaged, so that what it gains is less than what is
    handed over gains; to ask that its gain exceed chance declined gains of a point (decision 30).
    """
    kept = np.array([patient != without for patient in scores.patients], bool)
    patients = np.asarray(scores.patients)[kept]
    gains = {n: scores.by_epoch[n] - scores.by_epoch[0] for n in scores.epochs if n}
    means = {n: scores.mean(gain, kept) for n, gain in gains.items()}
    good = [n for n in gains if means[n] > 0 and _most_gain(gains[n][kept], patients)]
    if not good:
        return 0
    best = max(good, key=means.__getitem__)
    least = means[best] - SURE * standard_error(gains[best][kept], patients)
    return min(n for n in good if means[n] >= least)


def _most_gain(gains: np.ndarray, patients: np.ndarray) -> bool:
    """Whether more than half of the patients gain, each in the mean of its objects."""
    better = [bool(gains[patients == patient].mean() > 0) for patient in set(patients)]
    return 2 * sum(better) > len(better)
