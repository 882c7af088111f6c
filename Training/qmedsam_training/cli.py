"""``qmedsam-train``: from labelled images to a model folder that the engine loads."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Callable, List, Optional, Tuple

import typer
from qmedsam import QMedSAMError
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from .config import NetworkConfig, QuantizationConfig, TrainConfig, read_yaml

if TYPE_CHECKING:
    from .data import HeldOut

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)
console = Console()

_CONFIG = typer.Option(..., "--config", exists=True, dir_okay=False, help="YAML of a stage (see Training/configs).")
_MANIFEST = typer.Option(None, help="Labelled cases, instead of the configuration's.")
_DRY = typer.Option(False, "--dry-run", help="Print the plan and stop.")


@app.command()
def index(
    folder: Path = typer.Argument(..., exists=True, file_okay=False, help="The challenge's files: modality/dataset/*.npz."),
    output: Path = typer.Option(..., "-o", "--output", help="Index to write (JSON)."),
    dry_run: bool = _DRY,
) -> None:
    """Count the labelled 2D clips of every modality; broken files are listed and left out."""
    from .data import ChallengeIndex

    if dry_run:
        files = sorted(folder.rglob("*.npz"))
        console.print(f"{len(files):,} files, {sum(f.stat().st_size for f in files) / 2**30:.2f} GiB, each read once.")
        return
    with Progress(console=console) as bar:
        task = bar.add_task("Reading", total=None)
        made = ChallengeIndex.of(folder, lambda done, total: bar.update(task, completed=done, total=total))
    made.save(output)
    table = Table("modality", "files", "clips")
    for name, clips in sorted(made.modalities.items()):
        table.add_row(name, str(len(clips.files)), f"{len(clips):,}")
    console.print(table)
    for name, reason in made.broken:
        console.print(f"[yellow]left out[/] {name}: {reason}")


@app.command()
def train(
    config: Path = _CONFIG,
    output: Path = typer.Option(..., "-o", "--output", help="Folder of the run; continues there when it was interrupted."),
    init: Optional[Path] = typer.Option(None, help="Start from this checkpoint instead of the configuration's."),
    manifest: Optional[Path] = _MANIFEST,
    challenge: Optional[Path] = typer.Option(None, help="Challenge folder or index, instead of the configuration's."),
    minutes: Optional[float] = typer.Option(None, help="Wall-clock budget in minutes."),
    epochs: Optional[int] = typer.Option(None, help="Number of epochs."),
    devices: Optional[int] = typer.Option(None, help="GPUs (or, on a CPU, processes) of this node."),
    nodes: Optional[int] = typer.Option(None, help="Machines; start the command on each, as torchrun or SLURM do."),
    accelerator: Optional[str] = typer.Option(None, help="cpu, cuda or auto."),
    precision: Optional[str] = typer.Option(None, help="32-true or bf16-mixed."),
    dry_run: bool = _DRY,
) -> None:
    """Train one stage: float, or quantization aware where the configuration quantizes."""
    places = {"init": init, "data__manifest": manifest, "data__challenge": challenge}
    machine = {"devices": devices, "nodes": nodes, "accelerator": accelerator, "precision": precision}
    settings = TrainConfig.read(config, minutes=minutes, epochs=epochs, **places, **machine)
    if dry_run:
        _print_plan(settings)
        return
    from lightning_fabric.utilities.rank_zero import rank_zero_only

    from .train import run

    first = rank_zero_only.rank == 0  # Fabric runs the command again for every other process
    try:
        with Progress(console=console, disable=not first) as bar:
            task = bar.add_task("Training", total=1.0)
            best = run(settings, output, lambda share, text: bar.update(task, completed=share, description=text))
    except KeyboardInterrupt:
        if first:
            console.print("Stopped. The same command goes on from what was saved last.")
        raise SystemExit(130) from None
    if first:
        console.print(f"Best checkpoint: {best}")


@app.command()
def ptq(
    checkpoint: Path = typer.Argument(..., exists=True, dir_okay=False, help="best.pt of a float run."),
    config: Path = _CONFIG,
    output: Path = typer.Option(..., "-o", "--output", help="Quantized checkpoint to write (.pt)."),
    manifest: Optional[Path] = _MANIFEST,
    dry_run: bool = _DRY,
) -> None:
    """Quantize without training: scales from calibration images, weights as they are. Minutes on a CPU."""
    from .networks import post_training_quantized, save
    from .quantization import quantized_layers

    network, _, how, batches = _calibration(checkpoint, config, manifest)
    if dry_run:
        console.print(f"{network.architecture}, {network.input_size} x {network.input_size}, {how.calibration_images} images, ")
        console.print(f"{', '.join(how.parts)}: weights {how.weight_bits} bits, activations {how.activation_bits} bits")
        return
    model, network = post_training_quantized(checkpoint, how, batches())
    save(output, model, network)
    console.print(f"{quantized_layers(model)} layers quantized: {output}")


@app.command()
def threshold(
    checkpoint: Path = typer.Argument(..., exists=True, dir_okay=False, help="best.pt of a float run."),
    config: Path = _CONFIG,
    output: Path = typer.Option(..., "-o", "--output", help="Checkpoint to write (.pt)."),
    by: Optional[float] = typer.Option(
        None, help="Move by this much, whatever is best: what an earlier stage found on patients that this one was trained on."
    ),
    manifest: Optional[Path] = _MANIFEST,
    dry_run: bool = _DRY,
) -> None:
    """Move the logits so that 0 is the threshold of the best mean DSC on the patients that a stage holds out."""
    from .evaluation import TorchNetwork, by_threshold
    from .networks import load, save

    model, network = load(checkpoint)
    held = _held_out(_described(config, network, manifest))
    thresholds = [n / 4 for n in range(-4, 5)]  # coarse: a finer one would follow chance
    means = by_threshold(TorchNetwork(model, network.input_size), held, thresholds)
    table = Table("threshold", "DSC")
    for value, mean in zip(thresholds, means):
        table.add_row(f"{value:+.2f}", f"{mean:.4f}")
    console.print(table)
    if dry_run:
        return
    # Of those within a tenth of a point the one nearest to 0: further out borders get worse before the DSC does.
    best = min((t for t, mean in zip(thresholds, means) if mean >= max(means) - 0.001), key=abs)
    move = -best if by is None else by
    model.move_logits(move)
    save(output, model, network)
    console.print(f"The logits were moved by {move:+.2f}: {output}")


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
    manifest: Optional[Path] = _MANIFEST,
    dry_run: bool = _DRY,
) -> None:
    """Write the OpenVINO model folder; show what every layer runs in and how far it is from torch."""
    from .export import check_replaceable, model_fields, write_model
    from .networks import load
    from .runtimes import parity

    check_replaceable(output)
    model, network = load(checkpoint)
    others = read_yaml(recipe) if recipe else {}
    name = output.resolve().name
    card = f"# {name}\n"
    if "card_file" in others:
        card = (recipe.parent / others.pop("card_file")).read_text(encoding="utf-8")
    for table in others.pop("card_tables", []):  # pages of `qmedsam evaluate`, one heading deeper, without their pictures
        page = (recipe.parent / table).read_text(encoding="utf-8")
        page = re.sub(r"^!\[.*\n+", "", page, flags=re.MULTILINE)
        card += "\n" + re.sub("^#", "##", page, flags=re.MULTILINE)
    fields = model_fields(network, others.pop("name", name), **others)
    if dry_run:
        console.print(fields)
        return
    write_model(output, model, fields, card, keep_onnx, allow_overflow)
    census(output, layers=False)
    frames = None
    if config:
        held = _held_out(_described(config, network, manifest))
        frames = [(one.image.numpy(), one.box.numpy()) for one in held[:: max(1, len(held) // 32)]]
    for row in parity(model, output, frames):
        console.print(str(row))
        if row.too_far:
            console.print(f"[yellow]{row.name} computes something else than torch:[/] this model should not be used.")


@app.command()
def evaluate(
    network: Path = typer.Argument(..., exists=True, help="Checkpoint (float or quantized), or a model folder."),
    config: Path = _CONFIG,
    manifest: Optional[Path] = _MANIFEST,
    dry_run: bool = _DRY,
) -> None:
    """Score on the patients that a stage's data holds out, on the slices' own pixels."""
    from qmedsam.models import Model
    from qmedsam.network.openvino_network import OpenVINONetwork

    from .evaluation import TorchNetwork, by_group, mean_of_groups, score, score_ellipse
    from .networks import load

    if network.is_dir():
        runtime = OpenVINONetwork(Model.read(network))
        model = runtime.model.manifest
        frame = {"frame": model.frame["kind"], "margin": model.frame.get("margin", 0.3)}
        described = NetworkConfig(architecture=model.architecture, input_size=model.input_size, **frame)
    else:
        model, described = load(network)
        runtime = TorchNetwork(model, described.input_size)
    held = _held_out(_described(config, described, manifest))
    if dry_run:
        console.print(f"{len(held)} objects of {len({h.group for h in held})} groups")
        return
    results = score(runtime, held)
    table = Table("modality or source", "objects", "DSC", "NSD")
    for name, (count, overlap, surface) in by_group(results).items():
        table.add_row(name, str(count), f"{overlap:.3f}", f"{surface:.3f}")
    table.add_section()
    overlap, surface = mean_of_groups(results)
    table.add_row("mean", str(len(results)), f"{overlap:.4f}", f"{surface:.4f}")
    overlap, surface = mean_of_groups(score_ellipse(held))
    table.add_row("ellipse in the box", str(len(held)), f"{overlap:.4f}", f"{surface:.4f}")
    console.print(table)


@app.command()
def compare(
    checkpoint: Path = typer.Argument(..., exists=True, dir_okay=False, help="best.pt of a float run."),
    config: Path = _CONFIG,
    output: Path = typer.Option(..., "-o", "--output", help="Folder for the tables, the plot and the exported models."),
    trained: Optional[Path] = typer.Option(None, exists=True, help="best.pt of quantization-aware training."),
    nncf: bool = typer.Option(True, help="Also NNCF's post-training quantization, as the control (needs nncf)."),
    repeats: int = typer.Option(9, min=1, help="Of the timings."),
    threads: int = typer.Option(1, min=1, help="Of the timings, the same for all three runtimes."),
    manifest: Optional[Path] = _MANIFEST,
    dry_run: bool = _DRY,
) -> None:
    """Float, PTQ, QAT and NNCF: accuracy per modality, size, and milliseconds in three runtimes."""
    from .compare import compare as run
    from .compare import write_tables

    _, settings, how, batches = _calibration(checkpoint, config, manifest)
    held = _held_out(settings)
    if dry_run:
        console.print(f"{len(held)} objects, {how.calibration_images} calibration images, {repeats} timings on {threads} threads")
        return
    with console.status("") as status:
        rows = run(checkpoint, held, batches, how, output, trained, nncf, repeats, threads, status.update)
    console.print(write_tables(rows, output), markup=False)


@app.command()
def ablate(
    plan: Path = typer.Argument(..., exists=True, dir_okay=False, help="YAML: a base configuration, and a change per row."),
    output: Path = typer.Option(..., "-o", "--output", help="Folder for the table, and one per row; goes on where it stopped."),
    manifest: Optional[Path] = typer.Option(None, help="Labelled cases, instead of the base configuration's."),
) -> None:
    """Train one change after the other from one base, and score all alike on held-out patients."""
    from .ablations import Ablations, write_table
    from .ablations import ablate as run

    chosen = Ablations.read(plan, manifest)
    output.mkdir(parents=True, exist_ok=True)
    with Progress(console=console) as bar:
        task = bar.add_task("Training", total=1.0)
        outcomes = run(chosen, output, lambda share, text: bar.update(task, completed=share, description=text))
    console.print(write_table(outcomes, output), markup=False)


def _described(config: Path, network: NetworkConfig, manifest: Optional[Path] = None) -> TrainConfig:
    """A stage's data (or a manifest's instead), framed for a network that may have another size than the stage's."""
    from .networks import frame_kind

    shape = {"architecture": network.architecture, "options": network.options, "frame": frame_kind(network)}
    shape.update(input_size=network.input_size, margin=network.margin)
    return TrainConfig.read(config, **shape, data__manifest=manifest)


def _held_out(settings: TrainConfig) -> List[HeldOut]:
    """The objects that a stage's data holds out.

    Raises:
        QMedSAMError: there are none.
    """
    from .data import make_source, told

    source = make_source(settings)
    held = source.held_out()
    if source.skipped:
        console.print(f"[yellow]Left out:[/] {escape(told(source.skipped))}")
    if not held:
        raise QMedSAMError(
            "Nobody is held out by this configuration's data.", "Raise data.held_out; a source of few patients holds out none."
        )
    return held


def _calibration(
    checkpoint: Path, config: Path, manifest: Optional[Path]
) -> Tuple[NetworkConfig, TrainConfig, QuantizationConfig, Callable]:
    """A checkpoint's network, a stage's data, how to quantize (int8 where neither says), and calibration batches."""
    from .data import calibration_batches, make_source
    from .networks import load

    network = load(checkpoint)[1]
    settings = _described(config, network, manifest)
    how = settings.quantization or QuantizationConfig()
    settings = settings.model_copy(update={"quantization": how})
    return network, settings, how, lambda: calibration_batches(make_source(settings), settings)


def _print_plan(settings: TrainConfig) -> None:
    from .plan import describe

    table = Table(show_header=False, box=None)
    for row in describe(settings):
        table.add_row(*row)
    console.print(table)


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
        with Progress(console=console) as bar:
            calibrated(model, bar.track(samples, images, description="Calibrating"))
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


def main() -> None:
    """Entry point: errors that the user can mend are one sentence and a hint."""
    try:
        app()
    except QMedSAMError as error:
        console.print(f"[bold red]Error:[/] {error.message} {error.hint}")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
