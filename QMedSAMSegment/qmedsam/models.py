"""Model folders: what is in them (manifest), where they lie (store), and which one serves a modality (routing).

A model is a folder with ``manifest.json`` (``manifest.schema.json`` describes it), the two networks as OpenVINO IR and a
model card. The engine knows nothing about a network but its manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from .errors import QMedSAMError, shown
from .intensity import MODALITIES
from .terminology import same_structure

MANIFEST = "manifest.json"
_LONGEST_MANIFEST = 1 << 20
#: A zip of a model holds a dozen files; the largest network here has 400 MB.
_MOST_ENTRIES, _MOST_BYTES = 1000, 4 << 30


@dataclass(frozen=True)
class Manifest:
    """What a model's ``manifest.json`` says. Field by field as in ``manifest.schema.json``."""

    name: str
    title: str
    version: str
    license: str
    architecture: str
    precision: str
    encoder: str
    decoder: str
    files: Dict[str, str]
    input_size: int
    prompt_size: int
    normalization: Dict[str, Any]
    frame: Dict[str, Any]
    modalities: Tuple[str, ...]
    priority: int = 0
    dimension: int = 0
    description: str = ""
    strategies: Dict[str, str] = field(default_factory=dict)
    scores: Dict[str, Any] = field(default_factory=dict)
    data: Tuple[Dict[str, str], ...] = ()
    reference: Dict[str, Any] = field(default_factory=dict)
    prompts: Dict[str, Any] = field(default_factory=dict)
    targets: Tuple[Dict[str, Any], ...] = ()

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read and check a manifest.

        Raises:
            QMedSAMError: missing, not JSON, or a field is missing, unknown or of the wrong kind.
        """
        where = f"The manifest of '{path.parent.name}'"
        try:
            size = path.stat().st_size
        except OSError:
            raise QMedSAMError(f"'{path.parent}' holds no {MANIFEST}.", "Choose the folder of an exported model.") from None
        if not path.is_file() or size > _LONGEST_MANIFEST:  # a pipe would never end
            raise QMedSAMError(f"{where} is no file of text.", "Export or download the model again.")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise QMedSAMError(f"{where} cannot be read: {shown(error)}.", "Export or download the model again.") from None
        schema = json.loads((Path(__file__).parent / "manifest.schema.json").read_text(encoding="utf-8"))
        problem = _violation(values, schema, "manifest")
        if problem:
            raise QMedSAMError(f"{where} is not valid: {problem}.", "Export the model again with this version.")
        if values["normalization"]["kind"] == "fixed" and not {"mean", "std"} <= values["normalization"].keys():
            raise QMedSAMError(f"{where} lacks the mean and std of its normalization.", "Export the model again.")
        fields: Dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        return cls(**fields)


def _violation(value: Any, schema: Dict[str, Any], where: str) -> str:
    """The first way in which a value breaks the part of JSON Schema that our schema uses; empty when it fits.

    Slicer's Python has no ``jsonschema``; a test holds this against it.
    """
    kinds: Dict[str, Any] = {"object": dict, "array": list, "string": str, "integer": int, "number": (int, float)}
    kind = schema.get("type")
    if kind and (not isinstance(value, kinds[kind]) or isinstance(value, bool)):
        return f"{where} is not of the type {kind}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{where} is '{shown(value)}', not one of {', '.join(map(str, schema['enum']))}"
    if "minimum" in schema and value < schema["minimum"]:
        return f"{where} is below {schema['minimum']}"
    if isinstance(value, str) and len(value) < schema.get("minLength", 0):
        return f"{where} is empty"
    if isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            return f"{where} has {len(value)} entries"
        return next(filter(None, (_violation(v, schema.get("items", {}), f"{where}[{n}]") for n, v in enumerate(value))), "")
    if isinstance(value, dict):
        known, extra = schema.get("properties", {}), schema.get("additionalProperties", True)
        for key in schema.get("required", []):
            if key not in value:
                return f"{where} lacks '{key}'"
        for key, inner in value.items():
            if key not in known and extra is False:
                return f"{where} has the unknown field '{shown(key)}'"
            rule = known.get(key, extra if isinstance(extra, dict) else {})
            problem = _violation(inner, rule, f"{where}.{shown(key)}")
            if problem:
                return problem
    return ""


@dataclass(frozen=True)
class Model:
    """A manifest and the folder it lies in."""

    manifest: Manifest
    folder: Path

    @classmethod
    def read(cls, folder: Union[str, Path]) -> Model:
        return cls(Manifest.read(Path(folder) / MANIFEST), Path(folder))

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def encoder(self) -> Path:
        return self.folder / self.manifest.encoder

    @property
    def decoder(self) -> Path:
        return self.folder / self.manifest.decoder

    @property
    def bytes(self) -> int:
        """Size of the listed files."""
        return sum((self.folder / name).stat().st_size for name in self.manifest.files if (self.folder / name).is_file())

    def was_taught(self, name: str, code: str = "") -> bool:
        """Whether it was taught the structure of this name (in any case) or code (:mod:`.terminology`)."""
        targets = self.manifest.targets
        return any(same_structure([one["name"]], one.get("codes", ()), name, code) for one in targets)

    def verify(self) -> None:
        """Compare every listed file with its SHA-256.

        Raises:
            QMedSAMError: a file is missing, differs, or lies outside the folder.
        """
        for name in (self.manifest.encoder, self.manifest.decoder):
            for file in (name, Path(name).with_suffix(".bin").name, self.manifest.reference.get("file", name)):
                if file not in self.manifest.files:
                    raise QMedSAMError(f"The manifest of '{self.name}' lists no checksum for '{file}'.", "Export it again.")
        for name, expected in self.manifest.files.items():
            path = self.folder / name
            if Path(name).name != name:
                raise QMedSAMError(
                    f"The manifest of '{self.name}' points outside its folder ('{shown(name)}').", "Do not use it."
                )
            if not path.is_file():
                raise QMedSAMError(f"The model '{shown(self.name)}' lacks its file '{shown(name)}'.", "Add the model again.")
            if hashlib.sha256(path.read_bytes()).hexdigest() != expected.lower():
                raise QMedSAMError(
                    f"The file '{name}' of the model '{self.name}' differs from its checksum.",
                    "It is damaged or was changed: add the model again from its source.",
                )


def user_folder() -> Path:
    """Where models added by the user are kept."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "QMedSAM" / "Models"


def shipped_folder() -> Path:
    """Where the models that come with the package lie: in a wheel, in an installed extension, or in the source tree."""
    here = Path(__file__).resolve().parent
    places = (here / "_resources" / "Models", here.parent / "Resources" / "Models", here.parents[1] / "Resources" / "Models")
    return next((p for p in places if p.is_dir()), places[-1])


class ModelStore:
    """The models at hand, from the shipped folder, the user's folder and those named in ``QMEDSAM_MODELS``.

    Args:
        folders: folders whose sub-folders are models, most important first; default as said above (the variable's
            folders first, then the user's, then the shipped ones). Models are added to ``user``.
    """

    def __init__(self, folders: Optional[Sequence[Path]] = None, user: Optional[Path] = None) -> None:
        self.user = Path(user) if user else user_folder()
        if folders is None:
            extra = [Path(p) for p in os.environ.get("QMEDSAM_MODELS", "").split(os.pathsep) if p]
            folders = [*extra, self.user, shipped_folder()]
        self.folders = [Path(f) for f in folders]

    def models(self) -> List[Model]:
        """Every readable model, most important first; of two with the same name the first counts."""
        found: Dict[str, Model] = {}
        for folder in self.folders:
            for manifest in sorted(folder.glob(f"*/{MANIFEST}")):
                try:
                    model = Model.read(manifest.parent)
                except QMedSAMError:
                    continue  # `broken` lists it; one bad folder must not hide the good ones
                found.setdefault(model.name, model)
        return sorted(found.values(), key=lambda m: -m.manifest.priority)

    def broken(self) -> List[Tuple[Path, str]]:
        """Model folders whose manifest cannot be used, and why."""
        problems = []
        for folder in self.folders:
            for manifest in sorted(folder.glob(f"*/{MANIFEST}")):
                try:
                    Model.read(manifest.parent)
                except QMedSAMError as error:
                    problems.append((manifest.parent, str(error)))
        return problems

    def get(self, name: str) -> Model:
        """A model by name, or by the path of its folder.

        Raises:
            QMedSAMError: there is none.
        """
        for model in self.models():
            if model.name == name:
                return model
        if (Path(name) / MANIFEST).is_file():
            return Model.read(name)
        known = ", ".join(m.name for m in self.models()) or "none"
        if Path(name).is_file():
            hint = "A model is a folder. One is made of a checkpoint with 'qmedsam-train import-checkpoint' (needs torch). "
            raise QMedSAMError(f"'{name}' is no model.", f"{hint}Models at hand: {known}.")
        raise QMedSAMError(f"There is no model '{name}'.", f"Models at hand: {known}.")

    def route(self, modality: str, is_3d: bool = True, name: str = "", code: str = "") -> Model:
        """The model for a segment: one that was taught it, else the one for the modality.

        For a modality one that names it comes before one that takes any (``*``), then priority counts. A model that was taught
        some structures (``targets``) is for these alone.

        Args:
            modality: ``""`` for an unknown one.
            is_3d: several slices, or a picture: some models are for either alone.
            name, code: of the segment, as far as they are known.

        Raises:
            QMedSAMError: no model serves it.
        """
        models = [model for model in self.models() if model.manifest.dimension in (0, 3 if is_3d else 2)]
        taught = [model for model in models if model.manifest.targets and model.was_taught(name, code)]
        others = [model for model in models if not model.manifest.targets]
        for some in (taught, others):
            for wanted in (modality, "*"):
                for model in some:
                    if wanted in model.manifest.modalities:
                        return model
        raise QMedSAMError(
            f"No model at hand serves {modality or 'images of an unknown modality'}.",
            "Name one with --model, or add one with 'qmedsam models add'.",
        )

    def add(self, source: Union[str, Path]) -> Model:
        """Copy a model folder, or unpack a zip of one, into the user's folder, after checking it.

        What is there already under its name and is damaged is replaced.

        Raises:
            QMedSAMError: not a model, checksum mismatch, a whole model of that name is there already, or the folder is read-only.
        """
        source = Path(source)
        if not source.exists():
            raise QMedSAMError(f"There is nothing at '{source}'.", "Give a model folder, or a zip of one.")
        try:
            self.user.mkdir(parents=True, exist_ok=True)
            adding = tempfile.TemporaryDirectory(dir=self.user, prefix=".adding-")
        except OSError as error:
            raise QMedSAMError(
                f"Your models' folder '{self.user}' cannot be written to ({error.strerror}).", "Check its permissions."
            ) from error
        with adding as scratch:
            if source.is_dir():
                found = source
            elif zipfile.is_zipfile(source):
                found = _unpacked(source, Path(scratch) / "zip")
            else:
                raise QMedSAMError(f"'{source}' is neither a model folder nor a zip file.", f"It must hold {MANIFEST}.")
            model = Model.read(found)
            model.verify()
            if (
                len(model.name) > 100
                or not model.name.replace("-", "").replace("_", "").replace(".", "").isalnum()
                or model.name[0] == "."
            ):
                raise QMedSAMError(f"'{shown(model.name)}' is not a usable model name.", "Use letters, digits, '-', '_' and '.'.")
            target = self.user / model.name
            if target.exists() and _is_whole(target):
                raise QMedSAMError(f"A model '{model.name}' is there already.", "Remove it first.")
            copy = Path(scratch) / "copy"
            copy.mkdir()
            beside = ["MODEL_CARD.md", *(p.name for p in found.glob("LICENSE*"))]
            for name in (MANIFEST, *beside, *model.manifest.files):
                if (found / name).is_file():
                    shutil.copyfile(found / name, copy / name)
            if target.exists():
                os.replace(target, Path(scratch) / "damaged")
            os.replace(copy, target)
        return Model.read(target)

    def routes(self) -> Dict[str, str]:
        """The name of the model that volumes of each modality get where none is named; ``""`` (unknown) among the modalities.

        A modality that no model serves is not in it.
        """
        found = {}
        for modality in ("", *dict.fromkeys(MODALITIES.values())):
            try:
                found[modality] = self.route(modality).name
            except QMedSAMError:
                continue
        return found

    def remove(self, name: Union[str, Path]) -> None:
        """Delete a model of the user's folder, by its name or (a ``Path``) by its folder, where the manifest may be broken.

        Raises:
            QMedSAMError: it is not there (shipped models stay).
        """
        folders = [manifest.parent for manifest in self.user.glob(f"*/{MANIFEST}")]
        if isinstance(name, Path):
            folders, name = [f for f in folders if f == name], name.name
        named = [model.folder for model in self.models() if model.name == name and model.folder in folders]
        for folder in named or [f for f in folders if f.name == name]:  # by folder: the manifest may be broken
            shutil.rmtree(folder)
            return
        raise QMedSAMError(f"There is no model '{name}' among those you added.", "Shipped models cannot be removed.")


def _is_whole(folder: Path) -> bool:
    try:
        Model.read(folder).verify()
    except QMedSAMError:
        return False
    return True


def _unpacked(archive: Path, scratch: Path) -> Path:
    """Unpack the model of a zip, and nothing else of it; return its folder."""
    try:
        with zipfile.ZipFile(archive) as content:
            entries = [info for info in content.infolist() if info.filename and not info.is_dir()]
            if len(entries) > _MOST_ENTRIES or sum(info.file_size for info in entries) > _MOST_BYTES:
                raise QMedSAMError(
                    f"'{archive.name}' holds {len(entries):,} files that unpack to more than a model.",
                    "Choose the zip of an exported model.",
                )
            manifests = sorted((i.filename for i in entries if i.filename.split("/")[-1] == MANIFEST), key=lambda n: n.count("/"))
            if not manifests:
                raise QMedSAMError(f"'{archive.name}' holds no {MANIFEST}.", "Choose the zip of an exported model.")
            inside = manifests[0][: -len(MANIFEST)]
            scratch.mkdir()
            for info in entries:
                name = info.filename[len(inside) :]
                if info.filename.startswith(inside) and name and "/" not in name and "\\" not in name and name not in (".", ".."):
                    with content.open(info) as source, (scratch / name).open("wb") as target:
                        shutil.copyfileobj(source, target, 1 << 20)
    except QMedSAMError:
        raise
    except Exception as error:  # damaged outside, inside, or cut: of zipfile, zlib, lzma, bz2 and the file system
        raise QMedSAMError(f"'{archive.name}' cannot be unpacked: {shown(error)}.", "Download it again.") from None
    return scratch
