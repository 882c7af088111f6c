"""The priority of the work: Slicer puts itself behind every other program (nice 19, Linux), and what it starts inherits that."""

from __future__ import annotations

import os
import sys
import threading
from typing import List


def raise_priority() -> bool:
    """Give the calling thread, and what it starts from now on, the usual priority (nice 0) again.

    Linux keeps a priority per thread and gives it back to who may have it (``RLIMIT_NICE``): often not to a user's own programs.
    Other systems keep it per process, and Slicer leaves it alone there.

    Returns:
        Whether the thread has the usual priority now.
    """
    if not sys.platform.startswith("linux"):
        return True
    thread = threading.get_native_id()
    try:
        if os.getpriority(os.PRIO_PROCESS, thread) > 0:
            os.setpriority(os.PRIO_PROCESS, thread, 0)
    except OSError:
        return False
    return True


def lowered() -> bool:
    """Whether other programs come before what the calling thread starts, and nothing can be done about it.

    Tried on a thread of its own: the caller's priority is not ours to change.
    """
    raised: List[bool] = []
    trial = threading.Thread(target=lambda: raised.append(raise_priority()))
    trial.start()
    trial.join()
    return not raised[0]
