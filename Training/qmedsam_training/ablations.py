"""One change at a time: short trainings from one base configuration, scored alike on held-out patients.

The budget is small on purpose (minutes per row on one core), so rows say which way a choice pulls, not how good a long
training would be; a second seed of the base shows how much of a difference is chance.
"""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

from pydantic import Field, ValidationError
from qmedsam import QMedSAMError

from .config import Strict, TrainConfig, invalid, read_yaml
from .data import make_source
from .evaluation import TorchNetwork, mean_of_groups, score
from .networks import load
from .selection import Verdict
from .train import run

_OUTCOME = "outcome.json"


class Change(Strict):
    """A row: what differs from the base, merged into it section by section."""

    name: str = Field(min_length=1)
    change: Dict[str, Any] = Field(default_factory=dict)


class Ablations(Strict):
    """A base configuration and its changes."""

    base: Dict[str, Any]
    rows: List[Change] = Field(min_length=1)

    @classmethod
    def read(cls, path: Path, manifest: Optional[Path] = None) -> Ablations:
        """Read a YAML file and check every row before the first one trains. A manifest takes the place of the base's data.

        Raises:
            QMedSAMError: unreadable, or a row that is no valid configuration.
        """
        try:
            plan = cls.model_validate(read_yaml(path))
            if manifest is not None:
                plan.base["data"] = {**(plan.base.get("data") or {}), "manifest": str(manifest)}
                plan.base["data"].pop("challenge", None)
            for row in plan.rows:
                plan.settings(row)
        except ValidationError as error:
            raise invalid(path, error) from error
        folders = [folder_name(row.name) for row in plan.rows]
        if len(set(folders)) < len(folders):
            raise QMedSAMError(f"Two rows of '{Path(path).name}' have the same name.", "Each row trains in a folder of its name.")
        return plan

    def settings(self, row: Change) -> TrainConfig:
        """The configuration of a row."""
        return TrainConfig.model_validate(_merged(self.base, row.change))


@dataclass(frozen=True)
class Outcome:
    """Held-out scores of a row."""

    name: str
    parameters: int
    objects: int
    dsc: float
    nsd: float


def ablate(plan: Ablations, folder: Path, progress: Callable[[float, str], None] = lambda share, text: None) -> List[Outcome]:
    """Train every row that has not been trained yet in a folder of its name, and score all.

    Args:
        plan: what to train.
        folder: gets a folder per row; an interrupted row goes on where it stopped.
        progress: told the share of all rows and what is being done.
    """
    outcomes = []
    for n, row in enumerate(plan.rows):
        settings = plan.settings(row)

        def tell(share: float, text: str, n: int = n, name: str = row.name) -> None:
            progress((n + share) / len(plan.rows), f"{name}: {text}")

        place = folder / folder_name(row.name)
        outcomes.append(_known(place, settings) or _scored(row.name, run(settings, place, tell), settings))
        write_table(outcomes, folder)
    return outcomes


def _known(place: Path, settings: TrainConfig) -> Optional[Outcome]:
    """The outcome of a row that was trained and scored with these settings; to load its data again takes a while too."""
    kept = place / _OUTCOME
    if not kept.is_file():
        return None
    try:
        known = json.loads(kept.read_text(encoding="utf-8"))
        return Outcome(**known["outcome"]) if known["settings"] == settings.model_dump(mode="json") else None
    except (ValueError, KeyError, TypeError):
        return None  # the run was interrupted while it was written: score again


def _scored(name: str, best: Path, settings: TrainConfig) -> Outcome:
    """Score a trained row, and keep the outcome beside its weights."""
    model, network = load(best)
    held = make_source(settings).held_out()
    if held:
        scores = len(held), *mean_of_groups(score(TorchNetwork(model, network.side), held))
    else:  # so few patients that they were held out in folds, or none
        verdict = Verdict.read(best.parent)
        scores = verdict.objects, verdict.best.mean if verdict.best else math.nan, math.nan
    outcome = Outcome(name, sum(p.numel() for p in model.parameters()), *scores)
    known = {"settings": settings.model_dump(mode="json"), "outcome": asdict(outcome)}
    best.with_name(_OUTCOME).write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return outcome


def folder_name(name: str) -> str:
    """A row's folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def write_table(outcomes: List[Outcome], folder: Path) -> str:
    """``ablations.csv`` and ``ablations.md``; returns the Markdown."""
    base = outcomes[0]
    lines = ["| change | parameters | held-out DSC | against the base | NSD |", "|---|---|---|---|---|"]
    for row in outcomes:
        against = "" if row is base else f"{100 * (row.dsc - base.dsc):+.1f} points"
        lines.append(f"| {row.name} | {row.parameters / 1e6:.2f} M | {row.dsc:.3f} | {against} | {row.nsd:.3f} |")
    text = "\n".join(lines) + "\n"
    (folder / "ablations.md").write_text(text, encoding="utf-8")
    with (folder / "ablations.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["change", "parameters", "objects", "dsc", "nsd"])
        writer.writerows([row.name, row.parameters, row.objects, f"{row.dsc:.5f}", f"{row.nsd:.5f}"] for row in outcomes)
    return text


def _merged(base: Dict[str, Any], change: Dict[str, Any]) -> Dict[str, Any]:
    """Sections are merged, everything else is replaced."""
    out = dict(base)
    for key, value in change.items():
        section = out.get(key)
        out[key] = _merged(section, value) if isinstance(section, dict) and isinstance(value, dict) else value
    return out
