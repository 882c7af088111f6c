"""What a person looks at: overlays, sheets of tiles, panels of one slice."""

from __future__ import annotations
