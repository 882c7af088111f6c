"""Volumes whose truth is known: generated scenes, and the sample that ships."""

from __future__ import annotations

from .scenes import ORGANS, Phantom, abdomen_phantom, ellipsoid_phantom, write_sample

__all__ = ["ORGANS", "Phantom", "abdomen_phantom", "ellipsoid_phantom", "write_sample"]
