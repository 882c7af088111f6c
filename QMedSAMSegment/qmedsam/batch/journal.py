"""``batch.jsonl``: what every run into a folder was and what became of its cases, a line each, written as it happens."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Iterator, List, Mapping

from ..errors import QMedSAMError
from ..files.paths import reason_of
from ..files.tables import finite
from .settings import DONE, UNCHANGED, Outcome

JOURNAL = "batch.jsonl"
_LOCK = ".qmedsam-batch.lock"


class Journal:
    """Appends lines that are on disk when :meth:`write` returns: a run that is killed loses none of them.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / JOURNAL
        torn = path.is_file() and path.stat().st_size and not path.read_bytes().endswith(b"\n")
        self._stream = path.open("a", encoding="ascii", newline="\n")
        if torn:  # the run before was killed while it wrote
            self._stream.write("\n")

    def write(self, event: str, values: Mapping[str, Any]) -> None:
        self._stream.write(json.dumps({"event": event, **finite(values)}) + "\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        self._stream.close()


def read_outcomes(folder: Path) -> List[Outcome]:
    """The results that earlier runs left, the latest last. Lines that cannot be read are passed over."""
    found = []
    try:
        lines = (folder / JOURNAL).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            values = json.loads(line)
            if values["event"] == "case" and values["state"] in (DONE, UNCHANGED):
                found.append(Outcome.from_json(values))
        except (ValueError, TypeError, KeyError):
            continue  # torn when a run was killed; its case is done again
    return found


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold a folder for one run; the system lets go of it when the process ends, however it ends.

    Raises:
        QMedSAMError: the folder cannot be made or written to, or another run holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = (folder / _LOCK).open("a+")
    except OSError as error:
        raise QMedSAMError(f"'{folder}' cannot be written to ({reason_of(error)}).", "Choose another folder.") from error
    with stream:
        if not _lock(stream):
            raise QMedSAMError(f"Another run is writing into '{folder}'.", "Wait for its end, or choose another folder.")
        yield


def _lock(stream: IO[str]) -> bool:
    """False only when another process has it; file systems without locks (some network disks) let everybody in."""
    try:
        import fcntl
    except ImportError:
        import msvcrt

        try:
            msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
