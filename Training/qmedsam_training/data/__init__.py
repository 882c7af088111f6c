"""Training data: labelled cases or the challenge's files, drawn through the engine's own frames and intensities."""

from __future__ import annotations

from .challenge import ChallengeData
from .index import ChallengeIndex
from .labelled import LabelledData, calibration_samples
from .loading import Plan, calibration_batches, fixed_batches, folds_of, make_loader, make_source, scored_objects
from .samples import HeldOut, Preparation, Sample, Source, collate, told

__all__ = [
    "ChallengeData",
    "ChallengeIndex",
    "HeldOut",
    "LabelledData",
    "Plan",
    "Preparation",
    "Sample",
    "Source",
    "calibration_batches",
    "calibration_samples",
    "collate",
    "fixed_batches",
    "folds_of",
    "make_loader",
    "make_source",
    "scored_objects",
    "told",
]
