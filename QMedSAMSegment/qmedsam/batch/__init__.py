"""Many cases: collected from folders and lists, segmented here, on worker processes or on a cluster, resumable, reported."""

from __future__ import annotations

from .collect import collect
from .memory import parse_memory
from .run import Result, run_batch
from .settings import Case, Outcome, Settings

__all__ = ["Case", "Outcome", "Result", "Settings", "collect", "parse_memory", "run_batch"]
