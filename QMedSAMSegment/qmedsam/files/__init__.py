"""Volumes, boxes and segmentations on disk. The only room that knows LPS and file formats."""

from __future__ import annotations

from .boxes import boxes_of, read_boxes, write_boxes
from .paths import PathLike, check_target, check_targets, name_of, writing
from .segmentations import DEFAULT_COLORS, FORMATS, Origin, Segment, format_of, read_labels, write_segmentation
from .segments import read_segments
from .volumes import ijk_to_ras_of, image_of, read_volume, volume_of

__all__ = [
    "DEFAULT_COLORS",
    "FORMATS",
    "Origin",
    "PathLike",
    "Segment",
    "boxes_of",
    "check_target",
    "check_targets",
    "format_of",
    "ijk_to_ras_of",
    "image_of",
    "name_of",
    "read_boxes",
    "read_labels",
    "read_segments",
    "read_volume",
    "volume_of",
    "write_boxes",
    "write_segmentation",
    "writing",
]
