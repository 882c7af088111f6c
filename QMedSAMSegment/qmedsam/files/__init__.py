"""Volumes, boxes and segmentations on disk. The only room that knows LPS and file formats."""

from __future__ import annotations

from .boxes import boxes_of, read_boxes, write_boxes
from .formats import FORMATS, check_fits, check_output, format_of, write_segmentation
from .grids import ijk_to_ras_of, image_of
from .lines import write_diameters
from .paths import PathLike, check_target, check_targets, name_of, writing
from .rtstruct import read_rtstruct
from .saving import write_image
from .segmentations import DEFAULT_COLORS, Origin, Segment, read_labels
from .segments import read_segments
from .volumes import count_frames, read_frames, read_volume, volume_of

__all__ = [
    "DEFAULT_COLORS",
    "FORMATS",
    "Origin",
    "PathLike",
    "Segment",
    "boxes_of",
    "check_fits",
    "check_output",
    "check_target",
    "check_targets",
    "count_frames",
    "format_of",
    "ijk_to_ras_of",
    "image_of",
    "name_of",
    "read_boxes",
    "read_frames",
    "read_labels",
    "read_rtstruct",
    "read_segments",
    "read_volume",
    "volume_of",
    "write_boxes",
    "write_diameters",
    "write_image",
    "write_segmentation",
    "writing",
]
