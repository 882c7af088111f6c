"""Commands on trained networks: ``ptq``, ``threshold``, ``evaluate`` and ``compare``."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Callable, Optional, Tuple

import typer
from qmedsam import QMedSAMError
from qmedsam.network import Network
from rich.table import Table

from .cli_options import CONFIG, DRY, HELD_OUT, MANIFEST, described, objects
from .config import NetworkConfig, QuantizationConfig, TrainConfig
from .reporting import console, shown


def ptq(
    checkpoint: Path = typer.Argument(..., exists=True, dir_okay=False, help="best.pt of a float run."),
    config: Path = CONFIG,
    output: Path = typer.Option(..., "-o", "--output", help="Quantized checkpoint to write (.pt)."),
    manifest: Optional[Path] = MANIFEST,
    dry_run: bool = DRY,
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


def threshold(
    checkpoint: Path = typer.Argument(..., exists=True, dir_okay=False, help="best.pt of a float run."),
    config: Path = CONFIG,
    output: Path = typer.Option(..., "-o", "--output", help="Checkpoint to write (.pt)."),
    by: Optional[float] = typer.Option(
        None, help="Move by this much, whatever is best: what an earlier stage found on patients that this one was trained on."
    ),
    manifest: Optional[Path] = MANIFEST,
    dry_run: bool = DRY,
) -> None:
    """Move the logits so that 0 is the threshold of the best mean DSC on the patients that a stage holds out."""
    from .evaluation import TorchNetwork, by_threshold
    from .networks import load, save

    model, network = load(checkpoint)
    held = objects(described(config, network, manifest))
    thresholds = [n / 4 for n in range(-4, 5)]  # coarse: a finer one would follow chance
    means = by_threshold(TorchNetwork(model, network.side), held, thresholds)
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


def evaluate(
    network: Path = typer.Argument(..., exists=True, help="Checkpoint (float or quantized), or a model folder."),
    config: Path = CONFIG,
    manifest: Optional[Path] = MANIFEST,
    split: str = typer.Option(HELD_OUT, help="Whom: those that the stage holds out, or a split of the manifest by its name."),
    dry_run: bool = DRY,
) -> None:
    """Score on the patients that a stage's data holds out, or on any split, on the slices' own pixels."""
    from qmedsam.models import Model
    from qmedsam.network.openvino_network import OpenVINONetwork

    from .evaluation import TorchNetwork, by_group, interval, mean_of_groups, score, score_ellipse
    from .networks import load

    if network.is_dir():
        exported = Model.read(network)
        runtime: Network = OpenVINONetwork(exported)
        said = exported.manifest
        frame = {"frame": said.frame["kind"], "margin": said.frame.get("margin", 0.3)}
        own = NetworkConfig(architecture=said.architecture, input_size=said.input_size, **frame)
    else:
        model, own = load(network)
        runtime = TorchNetwork(model, own.side)
    held = objects(described(config, own, manifest), split)
    if dry_run:
        console.print(f"{len(held)} objects of {len({h.group for h in held})} groups, {len({h.patient for h in held})} patients")
        return
    results = score(runtime, held)
    table = Table("modality or source", "objects", "DSC", "NSD", "95 % interval of the DSC, over patients")
    for name, (count, overlap, surface) in by_group(results).items():
        own_results = [result for result in results if result.group == name]
        table.add_row(name, str(count), f"{overlap:.3f}", f"{surface:.3f}", interval(own_results))
    table.add_section()
    for name, rows in (("mean", results), ("ellipse in the box", score_ellipse(held))):
        overlap, surface = mean_of_groups(rows)
        table.add_row(name, str(len(rows)), f"{overlap:.4f}", f"{surface:.4f}", interval(rows))
    console.print(table)


def compare(
    checkpoint: Path = typer.Argument(..., exists=True, dir_okay=False, help="best.pt of a float run."),
    config: Path = CONFIG,
    output: Path = typer.Option(..., "-o", "--output", help="Folder for the tables, the plot and the exported models."),
    trained: Optional[Path] = typer.Option(None, exists=True, help="best.pt of quantization-aware training."),
    nncf: bool = typer.Option(True, help="Also NNCF's post-training quantization, as the control (needs nncf)."),
    repeats: int = typer.Option(9, min=1, help="Of the timings."),
    threads: int = typer.Option(1, min=1, help="Of the timings, the same for all three runtimes."),
    manifest: Optional[Path] = MANIFEST,
    dry_run: bool = DRY,
) -> None:
    """Float, PTQ, QAT and NNCF: accuracy per modality, size, and milliseconds in three runtimes."""
    from .compare import compare as run
    from .compare import write_tables

    _, settings, how, batches = _calibration(checkpoint, config, manifest)
    held = objects(settings)
    if dry_run:
        console.print(f"{len(held)} objects, {how.calibration_images} calibration images, {repeats} timings on {threads} threads")
        return
    if nncf and find_spec("nncf") is None:
        raise QMedSAMError(
            "NNCF, the control, is not installed.", "pip install --no-deps -r Training/requirements-nncf.txt, or --no-nncf."
        )
    with shown("Comparing") as tell:
        rows = run(checkpoint, held, batches, how, output, trained, nncf, repeats, threads, lambda text: tell(0.0, text))
    console.print(write_tables(rows, output), markup=False)


def _calibration(
    checkpoint: Path, config: Path, manifest: Optional[Path]
) -> Tuple[NetworkConfig, TrainConfig, QuantizationConfig, Callable]:
    """A checkpoint's network, a stage's data, how to quantize (int8 where neither says), and calibration batches."""
    from .data import calibration_batches, make_source
    from .networks import load

    network = load(checkpoint)[1]
    settings = described(config, network, manifest)
    how = settings.quantization or QuantizationConfig()
    settings = settings.model_copy(update={"quantization": how})
    return network, settings, how, lambda: calibration_batches(make_source(settings), settings)
