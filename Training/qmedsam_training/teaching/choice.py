"""How far a taught network goes from the untaught one: chosen by the user's own cases, found by networks that have not seen them.

A network between the two (every weight of the decoder a share of the way: Wortsman and others 2022) keeps more of what the
untaught one knew. With few cases, or cases unlike each other, less is better; nothing at all is a choice, too.
"""

from __future__ import annotations

from typing import List, Optional, Sequence, Tuple

import numpy as np

from ..selection import Scores, standard_error
from .scoring import SHARES, Outcome, Tried

#: Standard errors, over patients, that are taken off a gain.
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
    """The share whose gain is the largest when a standard error is taken off it; none where nothing is left.

    What a few cases gain by luck is not to be handed over: their standard error is large, and that of a small step is smaller.
    """
    kept = np.array([patient != without for patient in scores.patients], bool)
    patients = np.asarray(scores.patients)[kept]
    best, most = 0, 0.0
    for n in scores.epochs:
        gains = scores.by_epoch[n] - scores.by_epoch[0]
        sure = scores.mean(gains, kept) - SURE * standard_error(gains[kept], patients)
        if sure > most:
            best, most = n, sure
    return best
