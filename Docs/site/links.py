"""Links that hold on GitHub hold on the site: to pages, to pictures anywhere in the repository, to source files.

In the pages a link is always the path to a file of the repository. On the site a file that is a page of it stays a link to
that page, a picture is copied along, and anything else leads to the file on GitHub.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Callable, Dict, Optional

ROOT = Path(__file__).resolve().parents[2]
SOURCE = "https://github.com/QMedSAM/SlicerQMedSAM/blob/main/"
PICTURES = {".png", ".svg", ".jpg"}
LINK = re.compile(r"(?P<before>\]\()(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"^<!-- (not run|run by)[:]? (?P<what>.+?) -->\n", re.MULTILINE)


def on_the_site(text: str, page: str, source: Path, pages: Dict[Path, str], copied: Callable[[Path], str]) -> str:
    """The Markdown of a page with its links as the site needs them.

    Args:
        text: Markdown.
        page: the page's place within the site's sources.
        source: the file that the links are relative to, in the repository.
        pages: of files of the repository, the page that shows them.
        copied: makes a picture part of the site and says its place.
    """

    def link(match: re.Match) -> str:
        target = match["target"]
        if "://" in target or target.startswith(("mailto:", "/")):
            return match[0]
        path = Path(os.path.normpath(source.parent / target))
        place = _place(path)
        if place is None:
            return match[0]  # nothing there: the site's own check says so
        return f"{match['before']}{place}{match['anchor'] or ''})"

    def _place(path: Path) -> Optional[str]:
        if path in pages:
            return os.path.relpath(pages[path], os.path.dirname(page) or ".").replace(os.sep, "/")
        if not path.exists() or ROOT not in path.parents:
            return None
        if path.suffix in PICTURES:
            return os.path.relpath(copied(path), os.path.dirname(page) or ".").replace(os.sep, "/")
        return SOURCE + path.relative_to(ROOT).as_posix()

    parts, end = [], 0
    for fence in FENCE.finditer(text):  # code stays as it is
        parts += [LINK.sub(link, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, LINK.sub(link, text[end:])])


def marks_shown(text: str) -> str:
    """What a comment says about a block of code ("not run: why") becomes a line that readers see."""
    return MARK.sub(lambda match: f"*Not run by the tests: {match['what']}.*\n\n" if match[1] == "not run" else "", text)
