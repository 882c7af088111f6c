"""``qmedsam-train``: from labelled images to a model folder that the engine loads."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import List, Optional

import typer
from qmedsam import QMedSAMError
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
console = Console()


@app.command()
def train(
    config: Path = typer.Option(..., exists=True, dir_okay=False, help="YAML of the stage (see Training/configs)."),
    output: Path = typer.Option(..., "-o", "--output", help="Folder of the run; continues there when it was interrupted."),
    init: Optional[Path] = typer.Option(None, help="Start from this checkpoint instead of the configuration's."),
    manifest: Optional[Path] = typer.Option(None, help="Labelled cases, instead of the configuration's."),
    minutes: Optional[float] = typer.Option(None, help="Wall-clock budget in minutes."),
    steps: Optional[int] = typer.Option(None, help="Number of steps."),
    dry_run: bool = typer.Option(False, help="Print the plan and stop."),
) -> None:
    """Train one stage (float, or quantization aware)."""
    from .config import TrainConfig

    settings = TrainConfig.read(config, init=init, minutes=minutes, steps=steps)
    if manifest:
        settings.data.manifest = manifest
    console.print(settings.model_dump(mode="json"))
    if dry_run:
        from .train import make_model

        parameters = sum(p.numel() for p in make_model(settings).parameters())
        console.print(f"{parameters:,} parameters; {settings.steps * settings.batch_size:,} samples at most")
        return
    from .plots import plot_log
    from .train import run

    with Progress(console=console) as bar:
        task = bar.add_task("Training", total=1.0)
        best = run(settings, output, lambda share, text: bar.update(task, completed=share, description=text))
    plot_log(output / "log.csv", output / "log.png")
    console.print(f"Best checkpoint: {best}")


@app.command()
def export(
    checkpoint: Path = typer.Argument(..., exists=True, help="best.pt of a quantization-aware or a float run."),
    config: Path = typer.Option(..., exists=True, help="YAML of the stage that made it."),
    recipe: Path = typer.Option(..., exists=True, help="YAML with the manifest's fields and the model card."),
    output: Path = typer.Option(..., "-o", "--output", help="Model folder to write."),
    keep_onnx: bool = typer.Option(False, help="Keep the ONNX files too."),
) -> None:
    """Write the OpenVINO model folder and show what precision every layer really runs in."""
    import yaml

    from .architectures import ARCHITECTURES
    from .config import TrainConfig
    from .export import write_model
    from .train import load_trained

    settings = TrainConfig.read(config)
    fields = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    card = (recipe.parent / fields.pop("card_file")).read_text(encoding="utf-8")
    fields.update(
        architecture=settings.architecture,
        input_size=settings.input_size,
        precision="int8" if settings.stage == "qat" else "float32",
        frame={**ARCHITECTURES[settings.architecture].frame, "margin": settings.data.margin},
        normalization=ARCHITECTURES[settings.architecture].normalization,
    )
    write_model(output, load_trained(settings, checkpoint), fields, card, keep_onnx)
    census(output)


@app.command("import-checkpoint")
def import_checkpoint(
    checkpoint: Path = typer.Argument(..., exists=True, dir_okay=False, help="Public .pth, such as lite_medsam.pth."),
    architecture: str = typer.Option(..., help="litemedsam, medsam, efficientvit-sam-l0 to -l2, efficient-sam-ti or -s."),
    output: Path = typer.Option(..., "-o", "--output", help="Model folder to write; its name is the model's."),
    precision: str = typer.Option("int8", help="int8 (calibrated, not trained) or float32."),
    manifest: Optional[Path] = typer.Option(None, help="Labelled cases to calibrate on; default: synthetic scenes alone."),
    images: int = typer.Option(32, min=1, help="How many images to calibrate on."),
    modality: List[str] = typer.Option(["*"], help="What it is to be used for, again for each; '*': what no other model names."),
    priority: int = typer.Option(-1, help="Of two models for the same modality the higher one is used."),
    license: str = typer.Option("see the source of the checkpoint", help="Of the weights, for the manifest."),
) -> None:
    """Turn a public checkpoint into a model folder that the engine loads."""
    from qmedsam.intensity import known_modality

    from .architectures import ARCHITECTURES, build
    from .checkpoints import load_public
    from .export import write_model
    from .quantization import calibrated, fold_batch_norms, quantize

    modalities = list(dict.fromkeys(m if m == "*" else known_modality(m) for m in modality))
    if architecture not in ARCHITECTURES:
        raise QMedSAMError(f"There is no architecture '{architecture}'.", f"Known: {', '.join(ARCHITECTURES)}.")
    if precision not in ("int8", "float32"):
        raise QMedSAMError(f"There is no precision '{precision}'.", "Use int8 or float32.")
    known = ARCHITECTURES[architecture]
    model = build(architecture)
    load_public(model, checkpoint)
    if precision == "int8":
        from .data import calibration_samples

        samples = calibration_samples(known, images, manifest)
        with Progress(console=console) as bar:
            model = calibrated(quantize(fold_batch_norms(model)), bar.track(samples, images, description="Calibrating"))
    name = output.resolve().name
    fields = {
        "name": name,
        "title": name,
        "version": "1",
        "license": license,
        "description": f"{architecture}, imported from {checkpoint.name}",
        "architecture": architecture,
        "precision": precision,
        "input_size": known.input_size,
        "normalization": known.normalization,
        "frame": known.frame,
        "modalities": modalities,
        "priority": priority,
    }
    card = f"# {name}\n\n{architecture}, imported from `{checkpoint.name}` ({precision}). Licence of the weights: {license}.\n"
    write_model(output, model, fields, card)
    console.print(f"Wrote [green]{output}[/]; add it with: qmedsam models add {output}")
    census(output)


@app.command()
def census(model: Path = typer.Argument(..., exists=True, file_okay=False, help="Model folder.")) -> None:
    """Count the layers that multiply, by the precision that OpenVINO runs them in."""
    from .export import census as count

    table = Table("network", "layer", "precision", "count")
    for part in ("encoder", "decoder"):
        for (kind, precision), number in sorted(Counter(row[1:] for row in count(model / f"{part}.xml")).items()):
            table.add_row(part, kind, precision, str(number))
    console.print(table)


def main() -> None:
    """Entry point: errors that the user can mend are one sentence and a hint."""
    try:
        app()
    except QMedSAMError as error:
        console.print(f"[bold red]Error:[/] {error.message} {error.hint}")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
