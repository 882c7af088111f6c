"""Independent work on several streams: a small network is better asked twice at the same time than cut up over two cores."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from typing import Callable, Iterable, List

from ..turns import in_turn

Tick = Callable[[int], bool]
#: Work that calls ``tick`` as it goes and returns whether it ran to the end.
Job = Callable[[Tick], bool]


def side_by_side(jobs: Iterable[Job], streams: int, tick: Tick) -> bool:
    """Run jobs, so many at a time; false when one was stopped.

    Args:
        jobs: taken one by one, in order, as streams become free: what they hold is not there before.
        streams: the caller's thread is one of them; a single job runs in it alone.
        tick: is called by one stream at a time. When it stops one job, all stop at their next tick.

    Raises:
        BaseException: the first that a job raised, or an interrupt of the caller; the other jobs have stopped then.
    """
    waiting = iter(jobs)
    first = list(islice(waiting, 2)) if streams > 1 else []
    if len(first) < 2:
        return all(job(tick) for job in chain(first, waiting))
    lock, over, turn = threading.Lock(), threading.Event(), threading.Lock()
    raised: List[BaseException] = []

    def shared(count: int) -> bool:
        with lock:
            if not over.is_set() and tick(count):
                over.set()
        return over.is_set()

    def work() -> None:
        try:
            while not over.is_set():
                with lock:
                    job = first.pop(0) if first else next(waiting, None)
                if job is None:
                    return
                with in_turn(turn):
                    ended = job(shared)
                if not ended:
                    over.set()
        except BaseException as error:
            with lock:
                raised.append(error)
            over.set()

    with ThreadPoolExecutor(streams - 1, "qmedsam-stream") as pool:
        try:
            done = [pool.submit(work) for _ in range(streams - 1)]
            work()
            for one in done:
                one.result()
        except BaseException:  # Ctrl+C reaches the caller alone
            over.set()
            raise
    if raised:
        raise raised[0]
    return not over.is_set()
