"""What several commands take, and what they make of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional

import typer
from qmedsam import QMedSAMError
from rich.markup import escape

from .config import NetworkConfig, TrainConfig
from .reporting import errors

if TYPE_CHECKING:
    from .data import HeldOut

CONFIG = typer.Option(..., "--config", exists=True, dir_okay=False, help="YAML of a stage (see Training/configs).")
MANIFEST = typer.Option(None, help="Labelled cases, instead of the configuration's.")
DRY = typer.Option(False, "--dry-run", help="Print the plan and stop.")
#: The patients that a configuration holds out, in the place of a split of the data.
HELD_OUT = "held-out"


def described(config: Path, network: NetworkConfig, manifest: Optional[Path] = None) -> TrainConfig:
    """A stage's data (or a manifest's instead), framed for a network that may have another size than the stage's."""
    from .networks import frame_kind

    shape: Dict[str, Any] = {"architecture": network.architecture, "options": network.options, "frame": frame_kind(network)}
    shape.update(input_size=network.input_size, margin=network.margin)
    return TrainConfig.read(config, **shape, data__manifest=manifest)


def objects(settings: TrainConfig, split: str = HELD_OUT) -> List[HeldOut]:
    """The objects that a stage's data holds out, or those of a split of its manifest.

    Raises:
        QMedSAMError: there are none.
    """
    from .data import folds_of, scored_objects, told

    held, skipped = scored_objects(settings, None if split == HELD_OUT else split)
    if skipped:
        errors.print(f"[yellow]Left out:[/] {escape(told(skipped))}")
    if not held and split == HELD_OUT:
        hint = "Raise data.held_out; a source of few patients holds out none."
        if folds_of(settings):
            hint = "So few patients are held out in turn: the run's report.md has their scores. Or score on a --split."
        raise QMedSAMError("Nobody is held out by this configuration's data.", hint)
    if not held:
        raise QMedSAMError(f"The split '{split}' has no object that can be scored.", "Check its labels.")
    return held
