"""Where compiled networks are kept between runs, sealed: OpenVINO does not notice a damaged one and answers differently.

A home folder may be shared by machines: every kind of processor has its own (a network compiled for another one runs, with
instructions that are not there or results that are not the same).
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Optional, Tuple

from ..models import Model, user_folder

_ANSWER = "answer.json"


def cache_folder(model: Model, kind: str) -> Optional[Path]:
    """A model's own on a kind of processor (``QMEDSAM_CACHE`` overrules where; empty: no cache).

    Args:
        model: by its files' checksums.
        kind: see :func:`~qmedsam.network.processor.processor_kind`.
    """
    chosen = os.environ.get("QMEDSAM_CACHE")
    if chosen == "":
        return None
    files = "".join(sorted(model.manifest.files.values()))
    name = f"{hashlib.sha256(files.encode()).hexdigest()[:16]}-{kind}"
    folder = (Path(chosen) if chosen else user_folder().parent / "Cache") / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None  # a read-only home costs a second per start, not the run
    return folder


def kept_network(blob: Optional[Path]) -> Optional[bytes]:
    """A compiled network as it was kept; None where there is none, or a damaged one."""
    try:
        content = blob.read_bytes() if blob else b""
        return content if blob and _seal(blob).read_bytes() == _sum(content) else None
    except OSError:
        return None


def keep_network(blob: Optional[Path], content: bytes) -> None:
    """Keep a compiled network and its checksum; whole or not at all, though programs may do so at the same time."""
    with suppress(OSError):
        if blob:
            for path, written in ((blob, content), (_seal(blob), _sum(content))):
                beside = path.with_name(f"{path.name}.{os.getpid()}")
                beside.write_bytes(written)
                os.replace(beside, path)


def kept_deviation(folder: Optional[Path]) -> Optional[Tuple[float, float]]:
    """How far this machine's answer was from the reference (embedding, logits) when it was compared; None: not yet."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        if folder:
            found = json.loads((folder / _ANSWER).read_text(encoding="utf-8"))
            return float(found["embedding"]), float(found["logits"])
    return None


def keep_deviation(folder: Optional[Path], embedding: float, logits: float) -> None:
    """Remember it with the compiled networks; a write that is cut short is no JSON and is done again."""
    with suppress(OSError):
        if folder:
            (folder / _ANSWER).write_text(json.dumps({"embedding": embedding, "logits": logits}), encoding="utf-8")


def _seal(blob: Path) -> Path:
    return blob.with_suffix(".sha256")


def _sum(content: bytes) -> bytes:
    return hashlib.sha256(content).hexdigest().encode()
