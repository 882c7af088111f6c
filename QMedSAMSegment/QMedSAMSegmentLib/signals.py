"""Signals of widgets to methods."""

from __future__ import annotations

from typing import Any, Callable


def connected(sender: Any, signature: str, slot: Callable[..., Any]) -> None:
    """Connect, and fail at once where the signal does not exist: PythonQt only returns False, and the button stays dead."""
    if not sender.connect(signature, slot):
        raise ValueError(f"{sender} has no signal {signature}")
