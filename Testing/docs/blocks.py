"""Code blocks of Markdown pages: found, and run as a reader would run them, from top to bottom in one folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>not run|run by):? (?P<what>.+?) -->\n)?"
    r"^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
#: Languages that are run; others are shown, or written into a file where they have a title.
RUN = ("sh", "python", "diff")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        place: page and line, for messages.
        language: of the fence.
        title: the file that it is, where it has a title.
        mark: ``not run``, ``run by`` or None, and what the mark says.
    """

    place: str
    language: str
    code: str
    title: Optional[str]
    mark: Optional[str]
    what: str


def blocks_of(page: Path) -> List[Block]:
    """Every fenced block of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        place = f"{page.relative_to(ROOT)}:{text[: match.start()].count(chr(10)) + 1}"
        what = match["what"] or ""
        found.append(Block(place, match["language"], match["code"], match["title"], match["mark"], what))
    return found


def pages() -> List[Path]:
    """Every page whose code readers may run."""
    beside = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "Training" / "README.md"]
    return [*beside, *sorted((ROOT / "Docs").rglob("*.md"))]


class Runner:
    """Runs blocks one after the other: a shell and one Python namespace, both in ``folder``.

    Args:
        folder: what the commands see as the current one; ``qmedsam`` and ``python`` are this interpreter's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: Dict[str, Any] = {"__name__": "__docs__"}
        programs = folder / ".programs"
        programs.mkdir()
        for name, module in (("qmedsam", "-m qmedsam"), ("qmedsam-train", "-m qmedsam_training.cli"), ("python", "")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
            program.chmod(0o755)
        # The folder's own sources go first, where it is a copy of the repository.
        sources = [folder / "QMedSAMSegment", ROOT / "QMedSAMSegment", ROOT / "Training"]
        self.environment = {
            **os.environ,
            "XDG_DATA_HOME": str(folder / ".data"),  # the user's own models stay as they are
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(map(str, sources)),
            "PYTHONIOENCODING": "utf-8",
        }

    def run(self, block: Block) -> None:
        """Run, apply or write a block.

        Raises:
            AssertionError: it failed; the message says where it stands.
        """
        if block.title is not None:
            path = self.folder / block.title
            assert block.language != "python" or path.suffix == ".py", block.place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.code, encoding="utf-8")
        elif block.language == "sh":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.code],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                check=False,
            )
            assert done.returncode == 0, f"{block.place} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        elif block.language == "python":
            try:
                exec(compile(block.code, block.place, "exec"), self._names)
            except Exception as error:
                raise AssertionError(f"{block.place}: {type(error).__name__}: {error}") from error
        elif block.language == "diff":
            for path, old, new in changes_of(block):
                text = (self.folder / path).read_text(encoding="utf-8")
                assert text.count(old) == 1, f"{block.place}: what it changes is not once in {path}:\n{old}"
                (self.folder / path).write_text(text.replace(old, new), encoding="utf-8")


def changes_of(block: Block) -> List[Tuple[str, str, str]]:
    """The hunks of a diff: file, the lines before, the lines after. Hunks have no line numbers, which nobody would keep right."""
    path, hunks = "", []
    for line in block.code.splitlines():
        if line.startswith("--- "):
            continue
        if line.startswith("+++ b/"):
            path = line[len("+++ b/") :]
        elif line.startswith("@@"):
            hunks.append((path, [], []))
        else:
            _, old, new = hunks[-1]
            old += [line[1:]] if line[:1] in (" ", "-", "") else []
            new += [line[1:]] if line[:1] in (" ", "+", "") else []
    return [(path, "\n".join(old) + "\n", "\n".join(new) + "\n") for path, old, new in hunks]
