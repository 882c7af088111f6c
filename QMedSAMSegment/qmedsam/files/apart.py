"""Files that no check vouches for are read in a process of their own, with a limit of time and of memory.

Sizes and headers are compared before any library opens a file (:mod:`.reading`), but what unpacks the pixels of PNG, JPEG, TIFF
and packed DICOM is C code that a damaged stream may still end. A program that must go on then (a batch in its own process, a
window) asks a :class:`Reader`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import numpy as np

from ..errors import QMedSAMError
from ..geometry import Volume
from .header import machine_memory, resident
from .kinds import known_kind
from .paths import PathLike
from .volumes import count_frames, read_frames, read_volume

#: Kinds of files whose voxels Python or a library reads by sizes that were compared with the file.
_VOUCHED = ("nifti", "nrrd", "metaimage", "npz")
#: Bytes that the process takes before it reads: numpy and ITK, and the space that threads only reserve.
_BASE = 3 << 30
_SECONDS = 300.0


class Reader:
    """Reads volumes in a process that is started when the first file needs it, and kept.

    Args:
        seconds: that a file may take.
        memory: bytes that it may take; None for half of the machine's.
    """

    def __init__(self, seconds: float = _SECONDS, memory: Optional[int] = None) -> None:
        self._seconds = seconds
        self._memory = memory or (machine_memory() or 8 << 30) // 2
        self._process: Optional[subprocess.Popen] = None

    def read(self, path: PathLike, series: Optional[str] = None, frame_index: Optional[int] = None) -> Volume:
        """As :func:`~.volumes.read_volume`, which it calls for files that checks vouch for.

        Raises:
            QMedSAMError: as there; or the file ended its process, or took too long or too much memory.
        """
        if is_vouched(Path(path), series):
            return read_volume(path, series, frame_index)
        with tempfile.TemporaryDirectory(prefix="qmedsam-") as folder:
            array = Path(folder) / "array.npy"
            asked = {"path": str(path), "series": series, "frame_index": frame_index, "array": str(array)}
            answer = self._ask(asked, Path(path).name)
            if "message" in answer:
                raise QMedSAMError(answer["message"], answer["hint"])
            about = answer["volume"]
            about.update(ijk_to_ras=np.array(about["ijk_to_ras"]), notes=tuple(about["notes"]))
            return Volume(np.load(array), **about)

    def frames(self, path: PathLike, series: Optional[str] = None) -> Iterator[Volume]:
        """All time points, as :func:`~.volumes.read_frames` gives them; those of files apart one by one.

        Raises:
            QMedSAMError: as :meth:`read`.
        """
        if is_vouched(Path(path), series):
            yield from read_frames(path, series)
            return
        for number in range(count_frames(path, series)):
            yield self.read(path, series, number)

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for stream in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    stream.close()  # type: ignore[union-attr]
            self._process = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _ask(self, values: Dict[str, Any], name: str) -> Dict[str, Any]:
        """The answer of the process."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                [_python(), "-m", __name__, str(self._memory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [_ENGINE, os.environ.get("PYTHONPATH")]))},
            )
        process = self._process
        lines: List[bytes] = []
        try:
            process.stdin.write(json.dumps(values).encode() + b"\n")  # type: ignore[union-attr]
            process.stdin.flush()  # type: ignore[union-attr]
        except OSError:
            pass  # it has died: below
        listener = threading.Thread(target=lambda: lines.append(process.stdout.readline()), daemon=True)  # type: ignore[union-attr]
        listener.start()
        end, too_large = time.monotonic() + self._seconds, False
        while listener.is_alive() and time.monotonic() < end and not too_large:
            listener.join(0.2)
            too_large = (resident(process.pid) or 0) > self._memory + _BASE // 2
        if listener.is_alive():
            self.close()
            listener.join(5)
            what = "needs too much memory to be read" if too_large else f"could not be read in {self._seconds:.0f} s"
            raise QMedSAMError(f"'{name}' {what}.", "It may be damaged: copy or export it again.")
        try:
            return json.loads(lines[0])
        except (ValueError, IndexError):
            self.close()
            raise QMedSAMError(
                f"'{name}' ended the process that read it.", "It is damaged: copy or export it again, or convert it to NRRD."
            ) from None


_ENGINE = str(Path(__file__).resolve().parents[2])


def is_vouched(path: Path, series: Optional[str] = None) -> bool:
    """Whether checks of ours come before every library that reads a file; true for what will be refused anyway."""
    kind = "dicom" if path.is_dir() else known_kind(path)
    if kind == "dicom":
        from .dicom import is_packed

        try:
            return not is_packed(path, series)
        except QMedSAMError:
            return True
    return kind is None or kind in _VOUCHED


def _python() -> str:
    """Inside Slicer's application ``sys.executable`` may be the application, which is no interpreter."""
    import shutil

    python = sys.executable
    return python if "python" in Path(python).name.lower() else shutil.which("PythonSlicer") or python


def _serve(memory: int) -> None:
    """Answer a line for a line, until the input ends."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not on Windows
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory + _BASE, memory + _BASE))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # nothing that a library prints is an answer
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")
        answers.flush()


def _answer(asked: Dict[str, Any]) -> Dict[str, Any]:
    try:
        volume = read_volume(asked["path"], asked["series"], asked["frame_index"])
        np.save(asked["array"], volume.array_kji)
    except QMedSAMError as error:
        return {"message": error.message, "hint": error.hint}
    except MemoryError:
        name = Path(asked["path"]).name
        return {"message": f"'{name}' needs too much memory to be read.", "hint": "Crop the image, or check its header."}
    about: Dict[str, Any] = {name: getattr(volume, name) for name in _KEPT if hasattr(volume, name)}
    return {"volume": {**about, "ijk_to_ras": volume.ijk_to_ras.tolist(), "notes": list(volume.notes)}}


#: What of a volume travels as it is.
_KEPT: List[str] = ["modality", "name", "measured", "orientation"]


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
