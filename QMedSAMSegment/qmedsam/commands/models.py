"""``qmedsam models``: list, check, add and remove models."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import typer
from rich.markup import escape
from rich.table import Column, Table

from ..errors import QMedSAMError
from ..models import ModelStore
from .terminal import console

models_app = typer.Typer(no_args_is_help=True, help="List, check, add and remove models.")


@models_app.command("list")
def list_models() -> None:
    """List the models at hand."""
    store = ModelStore()
    name = Column("name", no_wrap=True)  # it has to be typed
    table = Table(name, "title", "precision", "input", "MiB", "modalities", "licence of the weights", "folder")
    for model in store.models():
        m = model.manifest
        where = str(model.folder.parent)
        modalities = ", ".join("any" if x == "*" else x for x in m.modalities)
        row = (m.name, m.title, m.precision, str(m.input_size), f"{model.bytes / 2**20:.1f}", modalities, m.license, where)
        table.add_row(*map(escape, row))
    console.print(table)
    _print_broken(store)


@models_app.command()
def show(name: str = typer.Argument(..., help="Name or folder.")) -> None:
    """Show a model's manifest and card."""
    model = ModelStore().get(name)
    console.print_json((model.folder / "manifest.json").read_text(encoding="utf-8"))
    card = model.folder / "MODEL_CARD.md"
    if card.is_file():
        console.print(card.read_text(encoding="utf-8"), markup=False)


@models_app.command()
def verify(name: Optional[str] = typer.Argument(None, help="Name or folder; default: all.")) -> None:
    """Compare the files of models with their checksums."""
    store = ModelStore()
    models = [store.get(name)] if name else store.models()
    failed = False
    for model in models:
        try:
            model.verify()
            console.print(f"[green]intact[/]  {escape(model.name)}")
        except QMedSAMError as error:
            failed = True
            console.print(f"[red]damaged[/] {escape(f'{model.name}: {error}')}")
    if not models:
        console.print("There are no models.")
    if (not name and _print_broken(store)) or failed or not models:
        raise typer.Exit(1)


@models_app.command()
def add(source: Path = typer.Argument(..., help="Model folder, or a zip of one.")) -> None:
    """Check a model and copy it to your models."""
    model = ModelStore().add(source)
    console.print(f"Added [green]{escape(model.name)}[/] " + escape(f"({model.manifest.license}) in {model.folder}"))


@models_app.command()
def remove(name: str = typer.Argument(..., help="Name of a model that you added.")) -> None:
    """Delete one of your models."""
    ModelStore().remove(name)
    console.print(escape(f"Removed {name}"))


def _print_broken(store: ModelStore) -> bool:
    broken = store.broken()
    for folder, problem in broken:
        console.print("[red]Unusable:[/] " + escape(f"{folder}: {problem}"))
    return bool(broken)
