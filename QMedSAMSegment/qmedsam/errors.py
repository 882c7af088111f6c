"""What goes wrong in a way that the user can mend, and what the user stopped."""

from __future__ import annotations

import functools
from typing import Any, Callable, TypeVar, cast

_Function = TypeVar("_Function", bound=Callable[..., Any])

#: What a UnicodeError means for a user: its own words are codecs and hexadecimal numbers.
NO_TEXT = "a part of it that should be text is none"
#: Letters of a file's own text that a sentence may hold.
_SHOWN = 60


class QMedSAMError(Exception):
    """Something is wrong that the user can put right.

    Attributes:
        message: one sentence saying what is wrong, without a traceback's vocabulary.
        hint: one sentence saying what to do about it (may be empty).
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


class Cancelled(Exception):
    """Raised by runs over many cases when the caller's ``cancelled()`` turned true (one case returns what it has)."""


#: How libraries in C++, the loader and the system say that they got no memory (or no thread for want of it).
_NO_MEMORY = (
    "bad_alloc",
    "alloc",
    "out of memory",
    "failed to map segment",
    "resource temporarily unavailable",
    "can't start new thread",
)


def lacks_memory(error: BaseException) -> bool:
    """Whether an exception of any library is about memory."""
    return isinstance(error, MemoryError) or any(word in str(error).lower() for word in _NO_MEMORY)


def says_what_is_missing(function: _Function) -> _Function:
    """Of a function that imports when it is called: a package that is not there becomes a :class:`QMedSAMError`.

    A Slicer that somebody built may lack what the official one has, SciPy for example.
    """

    @functools.wraps(function)
    def called(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except ModuleNotFoundError as error:
            package = (error.name or "").split(".")[0]
            if package in ("", "qmedsam"):
                raise
            raise QMedSAMError(
                f"The Python package '{package}' is not there.",
                f"Install it: python -m pip install {package}, in Slicer's Python console slicer.util.pip_install('{package}').",
            ) from error

    return cast("_Function", called)


def shown(text: object) -> str:
    """A file's own text, or an exception's, for a sentence: one short line of printable letters."""
    if isinstance(text, UnicodeError):
        return NO_TEXT
    if isinstance(text, (list, tuple, dict)):
        text = type(text).__name__  # never turned into text as a whole: it may be of any size
    line = "".join(c if c.isprintable() else " " for c in str(text)[: 4 * _SHOWN])
    line = " ".join(line.split())
    return encodable(line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…")


def encodable(text: str) -> str:
    """A text without the half characters that JSON can name and no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
