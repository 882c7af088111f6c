"""An index of the challenge's ``.npz`` files: 2D clips per modality, found by binary search, nothing unpacked."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Tuple

import numpy as np
from qmedsam import QMedSAMError
from qmedsam.files import writing
from qmedsam.files.challenge import read_arrays

#: Fewest pixels of a label on a slice for it to count (the challenge's own preparation drops less than 10).
LEAST_PIXELS = 10


@dataclass(frozen=True)
class Clips:
    """The files of one modality. Clip ``n`` is on file ``searchsorted(ends, n, "right")``."""

    files: Tuple[str, ...]  # relative to the root
    ends: np.ndarray  # cumulative number of clips, int64

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def locate(self, clip: int) -> Tuple[str, int]:
        """File and number of the labelled slice in it, by binary search.

        Raises:
            IndexError: there is no such clip.
        """
        if not 0 <= clip < len(self):
            raise IndexError(f"clip {clip} of {len(self)}")
        file = int(np.searchsorted(self.ends, clip, side="right"))
        return self.files[file], int(clip - (self.ends[file - 1] if file else 0))


@dataclass(frozen=True)
class ChallengeIndex:
    """What a folder of ``modality/dataset/*.npz`` holds.

    Attributes:
        root: the folder.
        modalities: clips by name of the folder below it.
        broken: files that could not be used, with the reason.
    """

    root: Path
    modalities: Dict[str, Clips]
    broken: Tuple[Tuple[str, str], ...] = ()

    @property
    def files(self) -> Dict[str, Tuple[str, ...]]:
        """Of every modality: each counts as a patient."""
        return {name: clips.files for name, clips in self.modalities.items()}

    @classmethod
    def of(cls, root: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> ChallengeIndex:
        """Read every file once (labels alone are decompressed).

        Raises:
            QMedSAMError: no file, or a modality without a single clip.
        """
        root = Path(root)
        paths = sorted(p for p in root.rglob("*.npz") if len(p.relative_to(root).parts) >= 2)
        if not paths:
            raise QMedSAMError(f"'{root}' holds no modality/dataset/*.npz.", "Give the challenge's training folder.")
        counts: Dict[str, Dict[str, int]] = {}
        broken: List[Tuple[str, str]] = []
        with ThreadPoolExecutor(4) as pool:  # zlib works outside of the interpreter lock
            for done, (path, outcome) in enumerate(zip(paths, pool.map(_count, paths)), start=1):
                name = path.relative_to(root).as_posix()
                modality = counts.setdefault(name.split("/")[0], {})
                if isinstance(outcome, int):
                    modality[name] = outcome
                else:
                    broken.append((name, str(outcome)))
                progress(done, len(paths))
        modalities = {
            modality: Clips(tuple(files), np.cumsum(list(files.values()), dtype=np.int64)) for modality, files in counts.items()
        }
        empty = [modality for modality, clips in modalities.items() if not len(clips)]
        if empty:
            first = next((f" The first: {name}: {reason}" for name, reason in broken if name.split("/")[0] in empty), "")
            raise QMedSAMError(f"No usable slice in {', '.join(empty)}.{first}", "Mend the files or remove the folder.")
        return cls(root, modalities, tuple(broken))

    @classmethod
    def open(cls, path: Path) -> ChallengeIndex:
        """Read an index file, or make one of a folder.

        Raises:
            QMedSAMError: neither, or an index whose folder is gone.
        """
        path = Path(path)
        if path.is_dir():
            return cls.of(path)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            root = (path.parent / content["root"]).resolve()
            modalities = {
                name: Clips(tuple(files), np.cumsum(list(files.values()), dtype=np.int64))
                for name, files in content["modalities"].items()
            }
            broken = tuple((name, reason) for name, reason in content["broken"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise QMedSAMError(
                f"'{path}' is no index of clips.", "Make one with: qmedsam-train index FOLDER -o INDEX.json"
            ) from error
        if not root.is_dir():
            raise QMedSAMError(f"The folder '{root}' of the index is gone.", "Make the index again.")
        return cls(root, modalities, broken)

    def save(self, path: Path) -> None:
        """As JSON; the root is written as an absolute path."""
        content = {
            "root": str(self.root.resolve()),
            "modalities": {
                name: dict(zip(clips.files, np.diff(clips.ends, prepend=0).tolist())) for name, clips in self.modalities.items()
            },
            "broken": [list(row) for row in self.broken],
        }
        with writing(path) as partial:
            partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def part(self, wanted: Callable[[str], bool]) -> ChallengeIndex:
        """The same index with some of the files; modalities left without one fall out."""
        modalities = {}
        for name, clips in self.modalities.items():
            counts = np.diff(clips.ends, prepend=0)
            chosen = [(file, count) for file, count in zip(clips.files, counts) if wanted(file)]
            if sum(count for _, count in chosen):
                modalities[name] = Clips(tuple(f for f, _ in chosen), np.cumsum([c for _, c in chosen], dtype=np.int64))
        return ChallengeIndex(self.root, modalities, self.broken)


def labelled_slices(labels: np.ndarray) -> np.ndarray:
    """Indices of the slices that hold enough of any label; a 2D label map is one slice.

    Args:
        labels: ``(j, i)`` or ``(k, j, i)``.
    """
    stack = labels[None] if labels.ndim == 2 else labels
    return np.flatnonzero((stack > 0).sum(axis=(1, 2)) >= LEAST_PIXELS)


def _count(path: Path) -> object:
    """Clips of a file, or why it cannot be used."""
    try:
        labels = read_arrays(path, ("gts",))["gts"]
        shape = _shape_of_images(path)
    except (QMedSAMError, OSError) as error:
        return str(error)
    if labels.ndim not in (2, 3) or shape[: labels.ndim] != labels.shape:
        return f"'imgs' {shape} and 'gts' {labels.shape} do not fit."
    count = len(labelled_slices(labels))
    return count if count else "No label is large enough."


def _shape_of_images(path: Path) -> Tuple[int, ...]:
    """Of ``imgs``, from its header alone."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive, archive.open("imgs.npy") as stream:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            return read(stream)[0]
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise QMedSAMError(f"'{path.name}' has no readable array 'imgs'.", "Copy it again.") from error
