"""What the docstrings' style needs before mkdocstrings reads them.

What is said of several parameters stands in one line in the code (``left, top: edge of the square``); readers get one line
each, and each name is held against the signature. Roles of reStructuredText become links within the site, so that a name that
moved is noticed. Comments of constants (``#: ...``) count as their docstrings.
"""

from __future__ import annotations

import re
from typing import Any, List

import griffe

_JOINED = re.compile(r"^(?P<indent> +)(?P<names>\w+(?:, \w+)+): (?P<text>.*(?:\n(?P=indent) +\S.*)*)", re.MULTILINE)
_ROLE = re.compile(r":(?:class|meth|func|mod|data|attr):`~?(?P<target>[\w.]+)`")


class Style(griffe.Extension):
    """Rewrites every docstring before it is parsed."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is None and obj.is_attribute and obj.lineno:
            comment = _comment_above(obj.lines_collection[obj.filepath], obj.lineno)
            obj.docstring = griffe.Docstring(comment, lineno=obj.lineno, parent=obj) if comment else None
        if obj.docstring is not None:
            obj.docstring.value = _ROLE.sub(_link, _JOINED.sub(_split, obj.docstring.value))


def _comment_above(lines: List[str], lineno: int) -> str:
    found: List[str] = []
    while lineno >= 2 and lines[lineno - 2].startswith("#:"):
        lineno -= 1
        found.insert(0, lines[lineno - 1][2:].strip())
    return "\n".join(found)


def _split(match: re.Match) -> str:
    return "\n".join(f"{match['indent']}{name}: {match['text']}" for name in match["names"].split(", "))


def _link(match: re.Match) -> str:
    name = match["target"].rpartition(".")[2]
    return f"[`{name}`][{match['target']}]" if match["target"].startswith("qmedsam.") else f"`{name}`"
