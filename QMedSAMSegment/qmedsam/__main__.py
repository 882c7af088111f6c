"""``python -m qmedsam`` and the command ``qmedsam``: nothing is imported before Ctrl+C has a sentence."""

from __future__ import annotations

import os
import signal
import sys


def _stopped(number: int, frame: object) -> None:
    """While the command line is loaded: an interrupted import would blame whatever it came across."""
    try:
        os.write(2, b"Stopped by you. Nothing was written.\n")
    finally:
        os._exit(130)


def main() -> None:
    """Entry point."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:  # of a job in the background it is not ours
        signal.signal(signal.SIGINT, _stopped)
    from .commands.app import main as run

    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, before)
    run()
    sys.exit(0)


if __name__ == "__main__":
    main()
