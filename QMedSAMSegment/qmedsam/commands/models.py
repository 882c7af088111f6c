"""``qmedsam models``: list, check, add and remove models."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Optional

import typer
from rich.markup import escape

from ..errors import QMedSAMError
from .terminal import console

if TYPE_CHECKING:
    from ..models import Model, ModelStore

#: Networks as other programs keep them.
_CHECKPOINTS = (".pth", ".pt", ".ckpt")
_FOREIGN = (*_CHECKPOINTS, ".onnx", ".safetensors", ".bin", ".xml", ".h5", ".tflite")

models_app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="List, check, add and remove models.")


@models_app.command("list")
def list_models() -> None:
    """List the models at hand."""
    from rich.table import Column, Table

    store = _store()
    name = Column("name", no_wrap=True)  # it has to be typed
    others = ("title", "precision", "input", "MiB", "modalities", "licence of the weights", "folder")
    table = Table(name, *(Column(title, overflow="fold") for title in others))  # nothing is left out on a narrow terminal
    for model in store.models():
        m = model.manifest
        where = str(model.folder.parent)
        modalities = ", ".join("any" if x == "*" else x for x in m.modalities)
        modalities += {0: "", 2: " (pictures)", 3: " (volumes)"}[m.dimension]
        row = (m.name, m.title, m.precision, str(m.input_size), f"{model.bytes / 2**20:.1f}", modalities, m.license, where)
        table.add_row(*map(escape, row))
    console.print(table)
    _print_broken(store)


@models_app.command()
def show(name: str = typer.Argument(..., help="Name or folder.")) -> None:
    """Show a model's manifest and card."""
    model = _store().get(name)
    console.print_json((model.folder / "manifest.json").read_text(encoding="utf-8"))
    card = model.folder / "MODEL_CARD.md"
    if card.is_file():
        console.print(card.read_text(encoding="utf-8"), markup=False)


@models_app.command()
def verify(name: Optional[str] = typer.Argument(None, help="Name or folder; default: all.")) -> None:
    """Check models' files, and this computer's answers.

    Files are compared with their checksums, answers with the models' reference answers.
    """
    store = _store()
    models = [store.get(name)] if name else store.models()
    failed = False
    for model in models:
        try:
            model.verify()
        except QMedSAMError as error:
            failed = True
            console.print(f"[red]damaged[/] {escape(f'{model.name}: {error}')}")
            continue
        console.print(f"[green]intact[/]  {escape(model.name)}")
        failed |= not _answers(model)
    if not models:
        console.print("There are no models.")
    if (not name and _print_broken(store)) or failed or not models:
        raise typer.Exit(1)


def _answers(model: Model) -> bool:
    """Whether a model answers here as its reference says; prints what was found."""
    from ..network.openvino_network import OpenVINONetwork

    try:
        network = OpenVINONetwork(model)
        deviation = network.check()
    except QMedSAMError as error:
        console.print("[red]unusable[/] " + escape(str(error)))
        return False
    if deviation is None:
        console.print("        it carries no reference answer to compare this computer's with")
    elif deviation.too_far:
        console.print("[red]differs[/] " + escape(network.sentence(deviation)))
        return False
    else:
        console.print("        " + escape(f"this computer answers as it should: {deviation}"))
    return True


@models_app.command()
def add(source: Path = typer.Argument(..., help="Model folder, or a zip of one.")) -> None:
    """Check a model and copy it to your models.

    A checkpoint (.pth) becomes a model with qmedsam-train import-checkpoint (needs torch: Training/README.md).
    """
    if source.suffix.lower() in _FOREIGN:
        of = "the checkpoint that it was exported from" if source.suffix.lower() not in _CHECKPOINTS else "it"
        raise QMedSAMError(
            f"'{source.name}' is a network, not yet a model of QMedSAM.",
            f"Make one of {of} with 'qmedsam-train import-checkpoint' (package in Training/, needs torch), then add its folder.",
        )
    store = _store()
    before = store.routes()
    model = store.add(source)
    console.print(f"Added [green]{escape(model.name)}[/] " + escape(f"({model.manifest.license}) in {model.folder}"))
    taken = [modality or "unknown modalities" for modality, name in store.routes().items() if before.get(modality) != name]
    if taken:
        console.print(f"It is what is used without --model now for {', '.join(taken)}.")


@models_app.command()
def remove(name: str = typer.Argument(..., help="Name of a model that you added.")) -> None:
    """Delete one of your models."""
    _store().remove(name)
    console.print(escape(f"Removed {name}"))


def _store() -> ModelStore:
    from ..models import ModelStore

    return ModelStore()


def _print_broken(store: ModelStore) -> bool:
    broken = store.broken()
    for folder, problem in broken:
        console.print("[red]Unusable:[/] " + escape(f"{folder}: {problem}"))
    return bool(broken)
