"""Whether a case was done before: by the contents of its inputs, the settings, and the model, not by names."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

from .. import __version__
from ..files import name_of
from ..models import MANIFEST, Model, ModelStore
from .settings import Case, Settings

#: How a header names the file that holds its voxels (MetaImage and NRRD).
_DETACHED = re.compile(rb"^(?:ElementDataFile\s*=|data ?file:)\s*(.+?)\s*$", re.MULTILINE | re.IGNORECASE)


def input_files(case: Case) -> Dict[str, List[Path]]:
    """Every file that a case is made of, by role (``volume``, ``boxes``, ``segmentation``)."""
    files = {"volume": list(_parts(case.volume)), "boxes": [part for path in case.boxes for part in _parts(path)]}
    if case.segmentation and not case.has_boxes:
        files["segmentation"] = list(_parts(case.segmentation))
    return files


def sizes_of(case: Case) -> List[int]:
    """Bytes of all input files, sorted: a quick no before contents are compared."""
    return sorted(path.stat().st_size for paths in input_files(case).values() for path in paths)


def key_of(case: Case, settings: Settings) -> Tuple[str, Dict[str, Any]]:
    """What tells a case from others, and what it was made of.

    Names of files count only where they go into the result: an ROI without a name is called as its file, and the name of a
    challenge ``.npz`` tells the modality. The engine's version counts: a newer one may segment differently.

    Raises:
        OSError: an input cannot be read.
    """
    inputs: Dict[str, Any] = {role: [sha256(path) for path in paths] for role, paths in input_files(case).items()}
    inputs["volume"].sort()  # the order of a DICOM series is in its files
    values = settings.to_json()
    del values["model"]  # by its own checksum; a name may come to mean another model
    del values["pictures"]
    inputs["settings"] = {
        **values,
        "modality": case.modality or settings.modality,
        "window": case.window or settings.window,
        "series": case.series,
        "drawn": case.drawn,
        "labels": case.names,
        "frame_index": case.frames_of(settings),
        "names": [name_of(path) for path in (case.volume, *case.boxes) if _names_something(path)],
        "version": __version__,
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest(), inputs


def model_sha256(model: Model) -> str:
    """Of the manifest, which holds the checksums of the networks."""
    return sha256(model.folder / MANIFEST)


def routed_sha256(store: ModelStore, name: Optional[str], modality: str, is_3d: bool) -> str:
    """Of the model of a name; without one of all that may answer boxes of a modality: a taught model's are known by their names.

    Raises:
        QMedSAMError: there is no such model.
    """
    if name:
        return model_sha256(store.get(name))
    taught = [m for m in store.models() if m.manifest.targets and {modality, "*"} & set(m.manifest.modalities)]
    own = model_sha256(store.route(modality, is_3d))
    found = [own, *sorted(model_sha256(model) for model in taught if model.manifest.dimension in (0, 3 if is_3d else 2))]
    return own if len(found) == 1 else hashlib.sha256(" ".join(found).encode()).hexdigest()


def sha256(path: Path) -> str:
    """Of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _parts(path: Path) -> Iterator[Path]:
    """A file and, for a header, the file with its voxels; a folder's files (a DICOM series)."""
    if path.is_dir():
        yield from sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        return
    yield path
    if path.suffix.lower() in (".mhd", ".nhdr") and path.is_file():
        with path.open("rb") as stream:
            named = _DETACHED.search(stream.read(1 << 16))
        beside = path.parent / named.group(1).decode("utf-8", "replace") if named else path
        if beside != path and beside.is_file():
            yield beside


def _names_something(path: Path) -> bool:
    if path.suffix.lower() == ".npz":
        return True
    if path.suffix.lower() != ".json":
        return False
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        return not all(markup.get("name") for markup in content["markups"])
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return False  # a plain file, or one that will fail
