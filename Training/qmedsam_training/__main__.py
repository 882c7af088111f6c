"""``python -m qmedsam_training``: the command ``qmedsam-train``."""

from __future__ import annotations

from .cli import main

if __name__ == "__main__":
    main()
