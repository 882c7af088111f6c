"""``python -m qmedsam``."""

from __future__ import annotations

from .commands.app import main

if __name__ == "__main__":
    main()
