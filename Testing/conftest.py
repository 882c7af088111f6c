"""Settings of every test."""

from __future__ import annotations

import atexit
import locale
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# pytest puts this folder on the path, and slicer-core takes every folder named "slicer" on it for a part of its own.
sys.path[:] = [one for one in sys.path if one != str(Path(__file__).parent)]

# Tests neither read nor leave compiled networks in the user's cache; theirs halves what every process of theirs pays to load one.
os.environ["QMEDSAM_CACHE"] = tempfile.mkdtemp(prefix="qmedsam-tests-")
atexit.register(shutil.rmtree, os.environ["QMEDSAM_CACHE"], ignore_errors=True)
# A shell starts background jobs with SIGINT ignored, which children inherit: the tests of Ctrl-C would fail there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# The same examples in every run, however loaded the machine is: what fails, fails again, and for whoever changed it.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _the_same_locale() -> Iterator[None]:
    """ITK leaves the process in the locale "C" once it has written a DICOM file: what the next test reads is then ASCII."""
    before = locale.setlocale(locale.LC_ALL)
    yield
    locale.setlocale(locale.LC_ALL, before)
