"""Where compiled networks are kept between runs, sealed: OpenVINO does not notice a damaged one and answers differently."""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Iterator, Optional

from ..models import Model, user_folder


def cache_folder(model: Model) -> Optional[Path]:
    """A model's own (``QMEDSAM_CACHE`` overrules where; empty: no cache), made and rid of what is damaged."""
    chosen = os.environ.get("QMEDSAM_CACHE")
    if chosen == "":
        return None
    files = "".join(sorted(model.manifest.files.values()))
    folder = (Path(chosen) if chosen else user_folder().parent / "Cache") / hashlib.sha256(files.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for blob in folder.glob("*.blob"):
            if not (_seal(blob).is_file() and _seal(blob).read_text() == _sum(blob)):
                blob.unlink()
                _seal(blob).unlink(missing_ok=True)
    except (OSError, ValueError):
        return None  # a read-only home costs a second per start, not the run
    return folder


@contextmanager
def sealing(folder: Optional[Path]) -> Iterator[None]:
    """Write the checksum of what is compiled meanwhile beside it.

    Programs that compile at the same time may seal half of a file: it is then compiled again at the next start.
    """
    yield
    with suppress(OSError):
        for blob in folder.glob("*.blob") if folder else ():
            if not _seal(blob).exists():
                _seal(blob).write_text(_sum(blob))


def _seal(blob: Path) -> Path:
    return blob.with_suffix(".sha256")


def _sum(blob: Path) -> str:
    return hashlib.sha256(blob.read_bytes()).hexdigest()
