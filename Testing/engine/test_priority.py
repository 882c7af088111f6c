"""Slicer puts itself behind every other program on Linux (nice 19); its threads and children would stay there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="priorities of threads are Linux's")
#: As a user who may not raise a priority; only root can become one.
AS_NOBODY = "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n" if hasattr(os, "geteuid") and os.geteuid() == 0 else ""


def _run(code: str) -> dict:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def _may(becoming: str = "") -> bool:
    """Whether a process of these rights can undo its own nice."""
    code = "import os, json\nos.nice(19)\n" + becoming
    code += "try:\n    os.setpriority(os.PRIO_PROCESS, 0, 0); print('true')\nexcept OSError:\n    print('false')"
    return bool(_run(code))


@linux
@pytest.mark.parametrize("becoming", ["", AS_NOBODY], ids=["as-we-are", "as-nobody"])
def test_a_thread_goes_back_to_the_usual_priority_where_it_may(becoming: str) -> None:
    """The caller's own priority stays: of the application's main thread it is not ours to change."""
    code = (
        "import json, os, threading\n"
        "from qmedsam.batch.priority import lowered, raise_priority\n"
        "os.nice(19)\n" + becoming + "found = {'lowered': lowered()}\n"
        "def work():\n"
        "    found['raised'] = raise_priority()\n"
        "    found['thread'] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())\n"
        "thread = threading.Thread(target=work); thread.start(); thread.join()\n"
        "found['main'] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())\n"
        "print(json.dumps(found))"
    )
    may = _may(becoming)
    assert _run(code) == {"lowered": not may, "raised": may, "thread": 0 if may else 19, "main": 19}


@linux
def test_at_the_usual_priority_nothing_is_changed_or_lacking() -> None:
    code = "import json, os\nfrom qmedsam.batch.priority import lowered, raise_priority\n"
    code += "print(json.dumps([raise_priority(), lowered(), os.getpriority(os.PRIO_PROCESS, 0)]))"
    nice = max(os.getpriority(os.PRIO_PROCESS, 0), 0)
    raised, low, now = _run(code)
    assert raised == (not low) and (now <= nice)


@linux
def test_a_batch_worker_does_not_inherit_slicers_priority(tmp_path: Path) -> None:
    """It says so itself: the first thing that it does, before a library starts its threads."""
    code = (
        "import json, os, sys\n"
        "os.nice(19)\n"
        "import qmedsam.batch.worker as worker\n"
        "class Stop(Exception): ...\n"
        "def first(*_): raise Stop\n"
        "worker.signal.signal = first\n"
        "try:\n    worker.main()\nexcept Stop:\n    print(json.dumps({'nice': os.getpriority(os.PRIO_PROCESS, 0)}))"
    )
    assert _run(code) == {"nice": 0 if _may() else 19}
