"""Results of earlier runs that are still right: found by content, checked on disk, copied where a case was renamed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Dict, List, Optional

from ..errors import QMedSAMError
from ..files import format_of, writing
from ..models import ModelStore
from .identity import key_of, routed_sha256, sha256, sizes_of
from .journal import read_outcomes
from .one import OVERLAYS, overlay_name
from .settings import UNCHANGED, Case, Outcome, Settings


class Earlier:
    """What earlier runs into a folder have done.

    Args:
        folder: of the runs.
        settings: of the run that asks.
        routed: models are looked up by their names or by modality; False when a segmenter of the caller's is used.
    """

    def __init__(self, folder: Path, settings: Settings, routed: bool = True) -> None:
        self._folder, self._settings, self._routed = folder, settings, routed
        self._by_key: Dict[str, List[Outcome]] = {}
        for outcome in reversed(read_outcomes(folder)):  # the latest of each output
            others = self._by_key.setdefault(outcome.key, [])
            if all(outcome.output != other.output for other in others):
                others.append(outcome)
        self._sizes = {tuple(outcome.sizes) for others in self._by_key.values() for outcome in others}
        self._models: Dict[tuple, str] = {}

    def result_of(self, case: Case) -> Optional[Outcome]:
        """The result of a case, its files in their places; None when it has to be done."""
        try:
            if case.problem or tuple(sizes_of(case)) not in self._sizes:
                return None
            key, _ = key_of(case, self._settings)
        except OSError:
            return None  # the case itself will say what is wrong
        candidates = self._by_key.get(key, [])
        for outcome in sorted(
            candidates, key=lambda o: self._folder / o.output != case.first_output(self._settings)
        ):  # its own first
            if self._is_right(outcome, case):
                try:
                    return self._taken_over(outcome, case)
                except (OSError, QMedSAMError):
                    return None  # it is done anew, and fails by itself where nothing can be written
        return None

    def _is_right(self, outcome: Outcome, case: Case) -> bool:
        output = self._folder / outcome.output
        try:
            same_model = outcome.model_sha256 == self._model(case.model or self._settings.model, outcome.modality, outcome.is_3d)
            same_format = format_of(output) == format_of(case.output)
            whole = all(sha256(output.with_name(name)) == digest for name, digest in outcome.others)
            # The time points of a series stay where they are: another case of the same content is done anew.
            moved = bool(outcome.others) and output != case.first_output(self._settings)
            return same_model and same_format and whole and not moved and sha256(output) == outcome.output_sha256
        except (OSError, QMedSAMError):
            return False

    def _model(self, name: Optional[str], modality: str, is_3d: bool) -> str:
        if not self._routed:
            return ""
        if (name, modality, is_3d) not in self._models:
            self._models[name, modality, is_3d] = routed_sha256(ModelStore(), name, modality, is_3d)
        return self._models[name, modality, is_3d]

    def _taken_over(self, outcome: Outcome, case: Case) -> Outcome:
        source, overlay = self._folder / outcome.output, self._folder / outcome.overlay
        target = case.first_output(self._settings)
        mine = replace(outcome, case=case.name, state=UNCHANGED, output=str(target), overlay="")
        if source != target:
            _copy(source, target)
            mine.message = " ".join(filter(None, [outcome.message, f"The same as '{outcome.case}'."]))
        if outcome.overlay and overlay.is_file():
            own = self._folder / OVERLAYS / overlay_name(case.name)
            if own != overlay:
                _copy(overlay, own)
            mine.overlay = own.relative_to(self._folder).as_posix()
        return mine


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with writing(target) as beside:
        shutil.copyfile(source, beside)
