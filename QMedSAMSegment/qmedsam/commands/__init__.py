"""What users type: one file per command of ``qmedsam``; what typer and rich need stays in here."""

from __future__ import annotations
