"""What a segment is, in codes: of Slicer's terminology entries, for models that were taught certain structures."""

from __future__ import annotations

from typing import Iterable, Optional

#: What Slicer gives a new segment says nothing: "Tissue".
_UNTOLD = ("SCT:85756007", "SRT:T-D0050")
_TAG = "TerminologyEntry"


def code_of(entry: str) -> str:
    """The code of a structure in a serialised terminology entry of Slicer.

    Args:
        entry: ``context~category~type~modifier~context~region~modifier``, where a code is ``scheme^value^meaning``
            (``vtkSlicerTerminologiesModuleLogic::SerializeTerminologyEntry``).

    Returns:
        ``scheme:value`` of the type, with a slash and its modifier (left, right) where there is one; empty where the entry is
        none, or says no more than "Tissue".
    """
    parts = entry.split("~")
    if len(parts) < 4:
        return ""
    kind, modifier = (_short(part) for part in parts[2:4])
    if not kind or kind in _UNTOLD:
        return ""
    return f"{kind}/{modifier}" if modifier else kind


def code_of_tags(tags: str) -> str:
    """The code in a segment's tags as ``.seg.nrrd`` has them: ``name:value|name:value|``."""
    for tag in tags.split("|"):
        name, _, value = tag.partition(":")
        if name.strip() == _TAG:
            return code_of(value)
    return ""


def same_structure(names: Iterable[str], codes: Iterable[str], name: str, code: Optional[str]) -> bool:
    """Whether a segment is one of some structures: by its code where both sides have one, and by its name in any case.

    Names are compared without regard to case and to blanks at their ends.
    """
    return (bool(code) and code in set(codes)) or folded(name) in {folded(one) for one in names}


def folded(name: str) -> str:
    """A name as it is compared."""
    return " ".join(name.casefold().split())


def _short(code: str) -> str:
    scheme, _, rest = code.partition("^")
    value = rest.partition("^")[0]
    return f"{scheme}:{value}" if scheme and value else ""
