"""Who is held out: patients, never pictures of one patient on both sides; the same on every machine."""

from __future__ import annotations

import hashlib
from typing import List, Mapping, Sequence, Set, Tuple

from ..config import DataConfig

#: A source (or modality) and a patient (or file) of it. Sources of the same name share their patients.
Patient = Tuple[str, str]
#: A source of fewer patients gives none away, unless a set would be too small without.
_LEAST_OF_SOURCE = 5
#: A set is filled up to its stated least size as long as it takes no more than this share of all patients; below, folds.
_LARGEST_SHARE = 0.25


def held_out(patients: Mapping[str, Sequence[str]], config: DataConfig) -> Set[Patient]:
    """The patients that a configuration does not train on.

    A share of every source of five patients or more (rounded, at least one), filled up to ``held_out_least`` of all. Those
    whose name hashes lowest: a case that is added later moves nobody else. Nobody where that many would be more than a
    quarter of all: then :func:`needs_folds`.

    Args:
        patients: of every source.
        config: share, least size, and perhaps the fold of a run of several.
    """
    everyone = everyone_of(patients)
    if config.fold is not None:
        return dealt(patients, config.folds)[config.fold]
    if not config.held_out:
        return set()
    chosen: Set[Patient] = set()
    left = {source: len(set(names)) for source, names in patients.items()}
    for source, names in patients.items():
        own = sorted({(source, name) for name in names}, key=chance_of)
        if len(own) >= _LEAST_OF_SOURCE:
            chosen.update(own[: max(1, min(round(config.held_out * len(own)), len(own) - 1))])
    for source, _ in chosen:
        left[source] -= 1
    for patient in sorted(everyone - chosen, key=chance_of):
        if len(chosen) >= min(config.held_out_least, int(_LARGEST_SHARE * len(everyone))):
            break
        if left[patient[0]] > len(set(patients[patient[0]])) / 2:  # what is trained on keeps most of every source
            chosen.add(patient)
            left[patient[0]] -= 1
    return chosen if len(chosen) >= config.held_out_least else set()


def needs_folds(patients: Mapping[str, Sequence[str]], config: DataConfig) -> int:
    """In how many folds a configuration's patients have to be held out in turn; 0: in none."""
    count = min(config.folds, len(everyone_of(patients)))
    wanted = config.held_out > 0 and config.fold is None and count >= 2
    return count if wanted and not held_out(patients, config) else 0


def dealt(patients: Mapping[str, Sequence[str]], count: int) -> List[Set[Patient]]:
    """All patients in folds of equal size, each source spread over all of them; every patient is in exactly one."""
    order = sorted(everyone_of(patients), key=lambda patient: (patient[0], chance_of(patient)))
    return [set(order[n::count]) for n in range(min(count, len(order)))]


def everyone_of(patients: Mapping[str, Sequence[str]]) -> Set[Patient]:
    """Each patient of each source once."""
    return {(source, name) for source, names in patients.items() for name in names}


def chance_of(patient: Patient) -> float:
    """A number in 0..1 that depends on the name alone, the same on every machine."""
    return int.from_bytes(hashlib.sha256("/".join(patient).encode()).digest()[:4], "big") / 2**32
