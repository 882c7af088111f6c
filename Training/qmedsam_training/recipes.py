"""The recipe of an export: what a manifest says beyond what training knows, and the model's card. Checked before the export."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, List, Literal, Optional, Tuple

from pydantic import Field, ValidationError, field_validator
from qmedsam import QMedSAMError
from qmedsam.intensity import known_modality

from .config import NetworkConfig, Strict, invalid, read_yaml
from .export import model_fields

#: A model's name is also the folder that stores keep it in.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
#: Fields of the recipe that are no fields of the manifest.
_OF_THE_CARD = {"card_file", "card_tables"}


class DataSet(Strict):
    """One of those that a model was trained on."""

    name: str = Field(min_length=1)
    license: str = Field(min_length=1)


class Recipe(Strict):
    """What only a person knows of a model. Files are relative to the recipe."""

    name: Optional[str] = Field(None, description="default: the folder's")
    title: Optional[str] = Field(None, min_length=1, description="shown to users")
    version: Optional[str] = Field(None, min_length=1)
    license: Optional[str] = Field(None, min_length=1, description="of the weights")
    description: Optional[str] = None
    modalities: Optional[List[str]] = Field(None, min_length=1, description="'*' takes any")
    priority: Optional[int] = Field(None, description="of two models for the same modality the higher one is used")
    dimension: Optional[Literal[2, 3]] = Field(None, description="taken where none is named: 3 for volumes alone, 2 for pictures")
    strategies: Optional[Dict[str, Literal["fixed", "propagate", "vote"]]] = Field(None, description="'auto', by modality")
    scores: Optional[Dict[str, Any]] = Field(None, description="measured, with the command that measured them")
    data: Optional[List[DataSet]] = Field(None, description="trained on")
    card_file: Optional[Path] = Field(None, description="text of the model card")
    card_tables: List[Path] = Field(default_factory=list, description="pages of `qmedsam evaluate`, appended to it")

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: Optional[str]) -> Optional[str]:
        return name and checked_name(name)

    @field_validator("modalities")
    @classmethod
    def _are_known(cls, modalities: Optional[List[str]]) -> Optional[List[str]]:
        return modalities and [m if m == "*" else known_modality(m) for m in modalities]

    @field_validator("strategies")
    @classmethod
    def _are_of_known_modalities(cls, strategies: Optional[Dict[str, str]]) -> Optional[Dict[str, str]]:
        return strategies and {known_modality(m): strategy for m, strategy in strategies.items()}


def checked_name(name: str) -> str:
    """The name, if a folder in a store can carry it.

    Raises:
        QMedSAMError: it leads elsewhere, or holds something other than letters, digits, dots, dashes and underscores.
    """
    if not _NAME.fullmatch(name):
        raise QMedSAMError(
            f"'{name}' cannot be the name of a model.",
            "Use letters, digits, dots, dashes and underscores, none of the last three first.",
        )
    return name


def read_recipe(path: Optional[Path], network: NetworkConfig, name: str) -> Tuple[Dict[str, Any], str]:
    """Fields of the manifest and text of the card.

    Args:
        path: YAML of a recipe; None: none.
        network: that is exported.
        name: of the model where the recipe has none.

    Raises:
        QMedSAMError: unreadable, an unknown field, a value that a manifest cannot hold, or a missing file of the card.
    """
    try:
        recipe = Recipe.model_validate(read_yaml(path) if path else {})
    except ValidationError as error:
        raise invalid(path or Path("recipe"), error) from error
    fields = recipe.model_dump(mode="json", exclude_none=True, exclude=_OF_THE_CARD)
    chosen = checked_name(fields.pop("name", name))
    card, place = f"# {chosen}\n", path or Path("recipe")
    if recipe.card_file:
        card = _text(place, recipe.card_file)
    for table in recipe.card_tables:  # one heading deeper, without their pictures
        page = re.sub(r"^!\[.*\n+", "", _text(place, table), flags=re.MULTILINE)
        card += "\n" + re.sub("^#", "##", page, flags=re.MULTILINE)
    return model_fields(network, chosen, **fields), card


def _text(recipe: Path, file: Path) -> str:
    try:
        return (recipe.parent / file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no text in UTF-8"
        raise QMedSAMError(
            f"'{file}' of the recipe '{recipe.name}' could not be read ({reason}).", "Paths are relative to the recipe."
        ) from error
