"""Commands that train: ``index``, ``train``, ``ablate``, and ``settings``, which says what a configuration can hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Optional

import typer
from qmedsam import QMedSAMError
from rich.markup import escape
from rich.table import Table

from .cli_options import CONFIG, DRY, MANIFEST
from .config import TrainConfig
from .reporting import console, shown


def index(
    folder: Path = typer.Argument(..., exists=True, file_okay=False, help="The challenge's files: modality/dataset/*.npz."),
    output: Path = typer.Option(..., "-o", "--output", help="Index to write (JSON)."),
    dry_run: bool = DRY,
) -> None:
    """Count the labelled 2D clips of every modality; broken files are listed and left out."""
    from .data import ChallengeIndex

    if dry_run:
        files = sorted(folder.rglob("*.npz"))
        console.print(f"{len(files):,} files, {sum(f.stat().st_size for f in files) / 2**30:.2f} GiB, each read once.")
        return
    with shown("Reading") as tell:
        made = ChallengeIndex.of(folder, lambda done, total: tell(done / total, f"{done:,} of {total:,} files"))
    made.save(output)
    table = Table("modality", "files", "clips")
    for name, clips in sorted(made.modalities.items()):
        table.add_row(name, str(len(clips.files)), f"{len(clips):,}")
    console.print(table)
    for name, reason in made.broken:
        console.print(f"[yellow]left out[/] {escape(f'{name}: {reason}')}")


def train(
    config: Path = CONFIG,
    output: Path = typer.Option(..., "-o", "--output", help="Folder of the run; continues there when it was interrupted."),
    init: Optional[Path] = typer.Option(None, help="Start from this checkpoint instead of the configuration's."),
    images: Optional[Path] = typer.Option(None, help="Folder of your own images, instead of the configuration's data."),
    labels: Optional[Path] = typer.Option(None, help="Folder of their label maps, of the same names."),
    modality: Optional[str] = typer.Option(None, help="Of those images: CT, MR, US, ..."),
    manifest: Optional[Path] = MANIFEST,
    challenge: Optional[Path] = typer.Option(None, help="Challenge folder or index, instead of the configuration's."),
    minutes: Optional[float] = typer.Option(None, help="Wall-clock budget in minutes."),
    epochs: Optional[int] = typer.Option(None, help="Number of epochs."),
    seed: Optional[int] = typer.Option(None, help="Of everything that is drawn."),
    devices: Optional[int] = typer.Option(None, help="GPUs (or, on a CPU, processes) of this node."),
    nodes: Optional[int] = typer.Option(None, help="Machines; start the command on each, as torchrun or SLURM do."),
    accelerator: Optional[str] = typer.Option(None, help="cpu, cuda, mps or auto."),
    precision: Optional[str] = typer.Option(None, help="32-true or bf16-mixed."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Print the plan, with memory and time of one real step, and stop."),
) -> None:
    """Train one stage: float, or quantization aware where the configuration quantizes."""
    places: Dict[str, Any] = {"init": init, "data__manifest": manifest, "data__challenge": challenge, "seed": seed}
    if any((images, labels, modality)):
        if not all((images, labels, modality)):
            raise QMedSAMError("--images, --labels and --modality go together.", "Give all three.")
        places["data__folders"] = [{"images": images, "labels": labels, "modality": modality}]
    machine = {"devices": devices, "nodes": nodes, "accelerator": accelerator, "precision": precision}
    settings = TrainConfig.read(config, minutes=minutes, epochs=epochs, **places, **machine)
    if dry_run:
        _print_plan(settings)
        return
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    from .selection import Verdict
    from .train import run

    first = getattr(rank_zero_only, "rank", 0) == 0  # Fabric runs the command again for every other process
    try:
        with shown("Training", quiet=not first) as tell:
            best = run(settings, output, tell)
    except KeyboardInterrupt:
        if first:
            console.print("Stopped. The same command goes on from what was saved last.")
        raise SystemExit(130) from None
    if first:
        verdict = Verdict.read(output)
        table = Table("weights", "epoch", "DSC (95 % interval over patients)")
        for row in verdict.table():
            table.add_row(*row)
        if table.row_count:
            console.print(table)
        for sentence in verdict.sentences():
            console.print(escape(sentence), highlight=False)
        console.print(f"Best checkpoint: {best}")


def ablate(
    plan: Path = typer.Argument(..., exists=True, dir_okay=False, help="YAML: a base configuration, and a change per row."),
    output: Path = typer.Option(..., "-o", "--output", help="Folder for the table, and one per row; goes on where it stopped."),
    manifest: Optional[Path] = typer.Option(None, help="Labelled cases, instead of the base configuration's."),
) -> None:
    """Train one change after the other from one base, and score all alike on held-out patients."""
    from .ablations import Ablations, write_table
    from .ablations import ablate as run
    from .networks import make_folder

    chosen = Ablations.read(plan, manifest)
    make_folder(output)
    with shown("Training") as tell:
        outcomes = run(chosen, output, tell)
    console.print(write_table(outcomes, output), markup=False)


def settings() -> None:
    """Everything that a configuration can hold, as a table in Markdown."""
    from .settings import table

    console.print(table(), markup=False, highlight=False, soft_wrap=True)


def _print_plan(settings: TrainConfig) -> None:
    from .plan import describe

    table = Table(show_header=False, box=None)
    for row in describe(settings):
        table.add_row(*map(escape, row))
    console.print(table)
