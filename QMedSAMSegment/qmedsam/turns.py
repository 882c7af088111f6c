"""Streams side by side take turns with Python and give theirs up while they wait for the network.

Python lets one thread in at a time anyway, but changes them at every array operation: two streams that both draw slices and bring
masks back spend their time on handing over. With turns they change where one has nothing to do.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import Iterator

_mine = threading.local()


@contextmanager
def in_turn(turn: threading.Lock) -> Iterator[None]:
    """Work while nobody else does who shares the lock."""
    with turn:
        before = getattr(_mine, "turn", None)
        _mine.turn = turn
        try:
            yield
        finally:
            _mine.turn = before


@contextmanager
def out_of_turn() -> Iterator[None]:
    """Let others work meanwhile. Hold no other lock around it: whoever has the turn might wait for that one."""
    turn = getattr(_mine, "turn", None)
    if turn is None:
        yield
        return
    turn.release()
    try:
        yield
    finally:
        turn.acquire()
