"""Names of files, what is wrong with them before they are opened, and writing that leaves no half file."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator, Optional, Sequence, Union

from ..errors import NO_TEXT, QMedSAMError

PathLike = Union[str, "os.PathLike[str]"]

#: Endings that belong together: the name of ``liver.seg.nrrd`` is ``liver``.
_DOUBLE = (".nii.gz", ".seg.nrrd", ".mrk.json", ".seg.nii.gz", ".rtstruct.dcm")


def name_of(path: PathLike) -> str:
    """The file's name without its (possibly double) suffix; dots inside the name stay. Folders keep their whole name."""
    path = Path(path)
    if path.is_dir():
        return path.name
    lower = path.name.lower()
    double = max((len(end) for end in _DOUBLE if lower.endswith(end)), default=0)
    return path.name[:-double] if double else path.stem


def check_name(path: PathLike) -> None:
    """Refuse a path that is no text in UTF-8 (an old file of Latin-1 on Linux): ITK ends the whole process over it.

    Raises:
        QMedSAMError: it is not.
    """
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        shown = str(path).encode("utf-8", "replace").decode("utf-8")
        raise QMedSAMError(f"The name of '{shown}' is not text in UTF-8.", "Rename it, or its folder.") from None


def existing_file(path: PathLike, what: str) -> Path:
    """The path, if a file with something in it is there.

    Args:
        path: where to look.
        what: what the file should be, for the message ("an image", "a box file").

    Raises:
        QMedSAMError: nothing there, a folder, empty, not readable by this user, or of a name that is not UTF-8.
    """
    check_name(path)
    path = Path(path)
    try:
        if path.is_dir():
            raise QMedSAMError(f"'{path}' is a folder, not {what}.", "Give the path of a file.")
        if not path.exists():
            raise QMedSAMError(f"There is no file '{path}'.", "Check the path for a typing error.")
        if path.stat().st_size == 0:
            raise QMedSAMError(f"'{path.name}' is an empty file.", "Copy or export it again.")
        with path.open("rb"):
            pass
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise QMedSAMError(f"'{path}' cannot be opened ({reason_of(error)}).", "Check the path and its permissions.") from error
    return path


def check_target(path: Optional[PathLike], source: Optional[PathLike] = None) -> None:
    """Look before a long run whether a file can be written where it shall go; None is nothing to write.

    Raises:
        QMedSAMError: its folder is missing, it is a folder, a device or a pipe, or it is the file that is read. A name of
            either that is not UTF-8, or that the system does not take.
    """
    if path is None:
        return
    check_name(path)
    if source is not None:
        check_name(source)
    path = Path(path)
    try:
        if not path.parent.is_dir():
            raise QMedSAMError(f"There is no folder '{path.parent}' to write '{path.name}' into.", "Create the folder first.")
        if path.is_dir():
            raise QMedSAMError(f"'{path}' is a folder.", "Give the name of a file to write.")
        if path.exists() and not path.is_file():  # it would be replaced: a pipe of another program, /dev/stdout
            raise QMedSAMError(f"'{path}' is a device or a pipe.", "Give the name of a file to write.")
    except (OSError, ValueError) as error:  # a part of more than 255 letters, a folder of somebody else; a NUL
        raise QMedSAMError(f"Nothing can be written to '{path}' ({reason_of(error)}).", "Give another name.") from error
    if "\0" in str(path):
        raise QMedSAMError(f"The name of '{path.name}' holds a NUL.", "Give another name.")
    if source is not None and _same_file(path, source):
        raise QMedSAMError(f"'{path}' is the image itself.", "Write the result to another file.")


def check_targets(paths: Sequence[Optional[PathLike]], source: PathLike, *others: Optional[PathLike]) -> None:
    """:func:`check_target` for all that one run writes, and for its other inputs (None where there is none).

    Raises:
        QMedSAMError: as there, or a file is one of the inputs, or is named for two results.
    """
    targets = [path for path in paths if path is not None]
    for n, path in enumerate(targets):
        check_target(path, source)
        if any(other is not None and _same_file(path, other) for other in others):
            raise QMedSAMError(f"'{path}' is one of the inputs.", "Write the result to another file.")
        if any(_same_file(path, other) for other in targets[:n]):
            raise QMedSAMError(f"'{path}' is named for two results.", "Give each a file of its own.")


def place_of(path: PathLike) -> str:
    """The same text for all paths to a file, which need not be there yet."""
    return os.path.normcase(os.path.realpath(path))


def _same_file(one: PathLike, other: PathLike) -> bool:
    try:
        return os.path.samefile(one, other)  # also by hard links, and where capitals do not count
    except OSError:
        return place_of(one) == place_of(other)


@contextmanager
def writing(path: PathLike) -> Iterator[Path]:
    """A path to write to, which becomes ``path`` when the block ends well and vanishes when it does not.

    The temporary file lies in a folder beside the target (renaming is atomic on one file system only) and carries the
    target's name, because writers choose the format by the suffix. It is on the disk, not only handed to the system, before
    it takes the target's place. Python's own writers raise when the disk is full; whoever uses another one looks at what it
    left, inside the block, and raises :class:`NotWhole` (see :mod:`.saving`).

    Raises:
        QMedSAMError: the folder is missing or not writable, ``path`` is no regular file, the disk or a quota is full, or the
            writer failed; an older file at ``path`` is then still whole.
    """
    path = Path(path)
    check_target(path)
    folder = None
    try:
        folder = tempfile.mkdtemp(prefix=".qmedsam-", dir=path.parent)
        beside = Path(folder) / path.name
        yield beside
        flush(beside)
        os.replace(beside, path)
        flush(path.parent)
    except (OSError, RuntimeError) as error:  # RuntimeError is how SimpleITK and OpenVINO complain, if they do
        raise QMedSAMError(f"'{path}' could not be written ({reason_of(error)}).", advice(path, error)) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


class NotWhole(OSError):
    """What was written is not what is in the file: a writer kept silent about a full disk."""

    def __init__(self) -> None:
        super().__init__("what was read back is not what was written")


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk.

    Raises:
        OSError: they cannot be put there (disks over a network and quotas say so only now).
    """
    if path.is_dir():
        if hasattr(os, "O_DIRECTORY"):  # Windows keeps names by itself
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(handle)
            except OSError:  # some file systems have no such thing; the file itself is safe
                pass
            finally:
                os.close(handle)
        return
    with path.open("r+b") as stream:
        os.fsync(stream.fileno())


#: Errors of a disk, a quota and a limit that are full.
_FULL = [getattr(errno, name) for name in ("ENOSPC", "EDQUOT", "EFBIG") if hasattr(errno, name)]


def advice(path: Path, error: BaseException) -> str:
    """What to do about a file that could not be written."""
    # SimpleITK has no numbers for what went wrong.
    if isinstance(error, OSError) and not isinstance(error, NotWhole) and error.errno not in _FULL:
        return "Check free space and the folder's permissions."
    try:
        free = f"Its disk has {shutil.disk_usage(path.parent).free / 1e6:.1f} MB free"
    except OSError:
        free = "Its disk may be full"
    return f"{free}, a quota may allow less: make room, or write elsewhere."


def reason_of(error: BaseException) -> str:
    """The last line of an exception's text that says something, without what ITK puts in front of it."""
    if isinstance(error, UnicodeError):
        return NO_TEXT
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    lines = [line.strip() for line in text.splitlines()]
    # "Reason:" is ITK's errno, left over from another call: a truncated .mha gets "No such file or directory"
    lines = [line for line in lines if line and not line.startswith("Reason:")] or [type(error).__name__]
    return re.sub(r"^(ITK ERROR: \w+\(\w+\)|ITK ERROR|sitk::ERROR): ", "", lines[-1]).rstrip(".:")
