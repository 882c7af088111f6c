"""``qmedsam-train atlas``: pack labelled cases into one file, train on it for hours on a GPU, score, quantize."""

from __future__ import annotations

import json
import time
from collections import Counter
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional

import typer
from qmedsam import QMedSAMError
from rich.markup import escape
from rich.table import Table

from ..config import NetworkConfig, QuantizationConfig
from ..reporting import console, errors, shown

if TYPE_CHECKING:
    import torch

    from .store import Atlas


class Aim(str, Enum):
    """What a network is trained for."""

    volumes = "volumes"
    slices = "slices"


app = typer.Typer(no_args_is_help=True, help=__doc__)

_FILE = typer.Argument(..., exists=True, dir_okay=False, help="Atlas of atlas build.")
_HOLD_OUT = typer.Option(0.08, min=0, max=0.9, help="Share of the patients of every source of five or more that is held out.")
_DEVICE = typer.Option("auto", help="cpu, cuda, or auto: a GPU if there is one.")


@app.command()
def build(
    manifest: Path = typer.Argument(..., exists=True, dir_okay=False, help="CSV of labelled cases."),
    output: Path = typer.Option(..., "-o", "--output", help="Atlas to write."),
    split: str = typer.Option("train", help="Of the manifest."),
    without: List[str] = typer.Option([], help="A source that is left out; again for each."),
    regions: bool = typer.Option(True, help="Also homogeneous regions of the images as objects."),
) -> None:
    """Pack the cases of a manifest: 8 bits a voxel, objects numbered, homogeneous regions beside them."""
    from qmedsam.evaluation.cases import read_manifest

    from ..data.cases import NOT_PROMPTABLE
    from .build import packed_cases
    from .store import write_atlas

    cases = read_manifest(manifest, split)
    _check_known(without, {case.source for case in cases}, "source")
    cases = [case for case in cases if case.source not in (*NOT_PROMPTABLE, *without)]
    if not cases:
        raise QMedSAMError("No case is left to pack.", "Leave fewer sources out.")
    with shown("Packing") as tell:
        done, skipped = packed_cases(cases, regions, lambda n, name: tell(n / len(cases), f"{n} of {len(cases)} cases: {name}"))
    for name, reason in skipped:
        errors.print(f"[yellow]Left out:[/] {escape(f'{name}: {reason}')}")
    if not done:
        raise QMedSAMError("No case could be packed.", "See the reasons above.")
    output.parent.mkdir(parents=True, exist_ok=True)
    write_atlas(output, done)
    table = Table("modality or source", "cases")
    for group, count in sorted(Counter(case.group for case in done).items()):
        table.add_row(group, str(count))
    console.print(table)
    console.print(f"{len(done)} cases, {output.stat().st_size / 2**20:.1f} MiB: {output}")


@app.command()
def fit(
    file: Path = _FILE,
    output: Path = typer.Option(..., "-o", "--output", help="Folder of the run; continues there when it was interrupted."),
    init: Optional[Path] = typer.Option(None, exists=True, dir_okay=False, help="Float checkpoint of ours to grow from."),
    seconds: float = typer.Option(0.0, min=0, help="Of training; or give steps."),
    steps: int = typer.Option(0, min=0, help="Of training; or give seconds."),
    batch: int = typer.Option(16, min=2, help="Frames a step; hundreds on a GPU."),
    rate: float = typer.Option(1e-3, min=0, help="Highest learning rate."),
    seed: int = typer.Option(0, help="Of everything that is drawn."),
    without: List[str] = typer.Option([], help="A group (modality/source) that is not trained on; again for each."),
    hold_out: float = _HOLD_OUT,
    hints: bool = typer.Option(True, help="Masks, strokes and kinds of boxes can be said beside the box."),
    candidates: int = typer.Option(3, min=1, help="Masks that the network has for a prompt."),
    deep: int = typer.Option(112, min=8, help="Channels of the decoder's coarsest level."),
    flat: float = typer.Option(0.25, min=0, max=1, help="Share of volumes' slices shown without those before and behind."),
    walked: float = typer.Option(0.0, min=0, max=1, help="Of those, the share told of what the network itself found beside."),
    again: float = typer.Option(0.0, min=0, max=1, help="Share of prompts with a neighbour that are looked at once more."),
    aim: Aim = typer.Option(
        Aim.volumes, help="What the network is for: boxes of volumes, or tight boxes on pictures and slices."
    ),
    others: float = typer.Option(0.5, min=0, help="Weight of the best candidate but the first."),
    compiled: bool = typer.Option(False, help="Compile the network's parts first: minutes, on a GPU worth it."),
    device: str = _DEVICE,
) -> None:
    """Train the compact network on frames that are drawn on the device; best.pt is the averaged network."""
    import torch
    from qmedsam.network import HINTS, KINDS

    from .. import networks
    from .drawing import KINDS_ASKED, Habits
    from .fit import SHARES, FitConfig, Sampler, grown_from
    from .fit import fit as run

    if bool(seconds) == bool(steps):
        raise QMedSAMError("How long to train is not clear.", "Give either --seconds or --steps.")
    before = networks.compact_of(init)[1] if init else NetworkConfig()
    options = {**before.options, "candidates": candidates, "deep": deep}
    options.update(hints=len(HINTS) if hints else 0, kinds=len(KINDS) if hints else 0)
    network = before.model_copy(update={"options": options})
    config = FitConfig(
        seconds=seconds,
        steps=steps,
        batch=batch,
        rate=rate,
        seed=seed,
        again=again,
        candidates=others,
        compiled=compiled,
        shares=SHARES[aim.value],
    )
    settings = {"network": network.model_dump(mode="json"), "batch": batch, "rate": rate, "seed": seed, "flat": flat}
    settings.update(walked=walked, again=again, aim=aim.value, others=others)
    settings.update(without=sorted(without), hold_out=hold_out, init=str(init) if init else None)
    where = _device(device)
    atlas = _opened(file).to(where)
    rows = _rows(atlas, hold_out, without, held=False)
    _own(output, settings)
    torch.manual_seed(seed)
    model: Any = networks.make(network)
    if init:
        grown_from(networks.load(init)[0].state_dict(), model)
    habits = Habits(network.side, network.margin, config.strength, KINDS_ASKED[aim.value], flat=flat, walked=walked)
    sampler = Sampler(atlas, config, habits, rows)
    console.print(f"{len(rows)} objects and regions of {len(atlas.groups)} groups, on {where}")
    try:
        model = run(model.to(where), sampler, config, output, lambda line: console.print(line, markup=False, highlight=False))
    except KeyboardInterrupt:
        console.print("Stopped. The same command goes on from what was saved last.")
        raise SystemExit(130) from None
    networks.save(output / "best.pt", model.cpu(), network)
    console.print(f"Best checkpoint: {output / 'best.pt'}")


@app.command()
def score(
    file: Path = _FILE,
    checkpoint: Path = typer.Argument(..., exists=True, dir_okay=False, help="best.pt of atlas fit, or of another float run."),
    hold_out: float = _HOLD_OUT,
    most: int = typer.Option(200, min=1, help="Objects of a group."),
    clicks: int = typer.Option(3, min=0, help="Corrections of a tight box's mask."),
    device: str = _DEVICE,
) -> None:
    """DSC by group on the patients that are held out (on all where that is 0): boxes, a neighbour's mask, clicks."""
    from .. import networks
    from .drawing import Habits
    from .fit import scored

    where = _device(device)
    model, network = networks.compact_of(checkpoint)
    atlas = _opened(file).to(where)
    rows = _rows(atlas, hold_out, [], held=hold_out > 0)
    rows = _spread(atlas, rows[atlas.columns["region"][rows] == 0], most)
    if not len(rows):
        raise QMedSAMError("Nobody of this atlas is held out.", "Raise --hold-out, or give 0 to score on everybody.")
    habits = Habits(size=network.side, margin=network.margin)
    found = scored(model.to(where), atlas, rows, habits, clicks)
    names = list(found)
    counts = Counter(atlas.groups[g] for g in atlas.group[rows].tolist())
    table = Table("modality or source", "objects", *names)
    for group in sorted(counts):
        table.add_row(group, str(counts[group]), *(_cell(found[name].get(group)) for name in names))
    table.add_section()
    means = (sum(of.values()) / len(of) for of in found.values())
    table.add_row("mean of groups", str(len(rows)), *(_cell(mean) for mean in means))
    console.print(table)


@app.command()
def ptq(
    file: Path = _FILE,
    checkpoint: Path = typer.Argument(..., exists=True, dir_okay=False, help="best.pt of atlas fit."),
    output: Path = typer.Option(..., "-o", "--output", help="Quantized checkpoint to write (.pt)."),
    images: int = typer.Option(192, min=1, help="How many images to calibrate on."),
    seed: int = typer.Option(0, help="Of what is drawn."),
    hold_out: float = _HOLD_OUT,
) -> None:
    """Quantize without training: scales from what is said to the network, corrections included; weights as they are."""
    from .. import networks
    from ..quantization import quantized_layers
    from .calibration import calibration_samples
    from .drawing import Habits

    float_model, network = networks.compact_of(checkpoint)
    atlas = _opened(file)
    habits = Habits(size=network.side, margin=network.margin)
    rows = _rows(atlas, hold_out, [], held=False)
    samples = calibration_samples(atlas, float_model, images, seed, habits, rows)
    how = QuantizationConfig(calibration_images=images)
    started = time.monotonic()
    model, network = networks.post_training_quantized(checkpoint, how, samples)
    networks.save(output, model, network)
    console.print(f"{quantized_layers(model)} layers quantized in {time.monotonic() - started:.0f} s: {output}")


def _opened(file: Path) -> Atlas:
    from .store import read_atlas

    with console.status("Reading the atlas"):
        return read_atlas(file)


def _rows(atlas: Atlas, share: float, without: List[str], held: bool) -> torch.Tensor:
    """Rows of the patients that are held out, or of the others; none of the groups left out.

    Raises:
        QMedSAMError: there is no such group, or nothing is left to train on.
    """
    import torch

    from .store import held_out

    _check_known(without, set(atlas.groups), "group")
    chosen = atlas.of_patients(held_out(atlas.patients, share))
    if not held:
        chosen = ~chosen
    away = torch.tensor([group in without for group in atlas.groups], device=chosen.device)
    rows = (chosen & ~away[atlas.group]).nonzero()[:, 0]
    if not held and not len(rows):
        raise QMedSAMError("No object is left to train on.", "Leave fewer groups out.")
    return rows


def _spread(atlas: Atlas, rows: torch.Tensor, most: int) -> torch.Tensor:
    """At most so many rows of every group, evenly over its cases; always the same ones."""
    import torch

    group = atlas.group[rows]
    parts = [rows[group == number] for number in range(len(atlas.groups))]
    return torch.cat([own[torch.linspace(0, len(own) - 1, min(most, len(own))).long().to(own.device)] for own in parts])


def _check_known(given: List[str], known: set, what: str) -> None:
    foreign = sorted(set(given) - known)
    if foreign:
        raise QMedSAMError(f"There is no {what} '{foreign[0]}' here.", f"Known: {', '.join(sorted(known))}.")


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise QMedSAMError(f"There is no device '{name}' here.", "Use cpu, cuda or auto.") from error


def _own(folder: Path, settings: Dict[str, Any]) -> None:
    """Note what a folder's run is of; how long it takes may change.

    Raises:
        QMedSAMError: it holds a run of other settings.
    """
    path = folder / "settings.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        other = sorted(key for key in settings if before.get(key) != settings[key])
        if other:
            raise QMedSAMError(f"'{folder}' holds a run with another {other[0]}.", "Give another folder, or the same settings.")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _cell(value: Optional[float]) -> str:
    return "" if value is None else f"{value:.3f}"
