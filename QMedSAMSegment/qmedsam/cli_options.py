"""Options that several commands have, stated once, and what their texts mean."""

from __future__ import annotations

import typer

from .errors import QMedSAMError
from .geometry import Box, Volume
from .intensity import CT_WINDOWS
from .strategies import Options

STRATEGY = typer.Option(
    "auto",
    help="auto (by modality), fixed (the box on every slice), propagate (from the best slice outwards) or vote (three views).",
)
MODEL = typer.Option(None, help="Name or folder of a model; default: by modality.")
FRAME = typer.Option(None, help="What the network sees: roi (the box with a margin) or slice; default: the model's own.")
WINDOW = typer.Option(None, help=f"WIDTH,LEVEL, or one of {', '.join(CT_WINDOWS)}.")
MODALITY = typer.Option("auto", help="CT, MR, PET, US, XRay, ... or auto (from the file).")
THREADS = typer.Option(0, min=0, help="CPU threads; 0 takes all.")
EVERY = typer.Option(1, min=1, help="propagate: encode every n-th slice, interpolate the shape between.")
LEAST_IOU = typer.Option(0.0, min=0, max=1, help="propagate: interpolate only between masks that overlap by this; else encode.")
FILL_HOLES = typer.Option(False, "--fill-holes", help="propagate: close the holes of every slice's mask.")
VIEW_WEIGHTS = typer.Option("1,1,1", help="vote: weights of the axial, coronal and sagittal view; 0 leaves one out.")
VOTE_ON = typer.Option(Options().vote_on, help="vote: mask (2 of 3) or probability.")
WALK = typer.Option(Options().walk, help="vote: how each view is prompted: fixed, taper or propagate.")


def parse_box(text: str, image: Volume, number: int) -> Box:
    """A box typed as ``i0,j0,k0,i1,j1,k1`` (``i0,j0,i1,j1`` on a 2D image), both ends included; its label is ``number``.

    Raises:
        QMedSAMError: it is not that.
    """
    try:
        values = [float(v) for v in text.split(",")]
    except ValueError:
        values = []
    if len(values) == 4 and image.array_kji.shape[0] == 1:
        values = [values[0], values[1], 0, values[2], values[3], 0]
    if len(values) != 6:
        raise QMedSAMError(f"'{text}' is not a box.", "Give six numbers: i0,j0,k0,i1,j1,k1 (four on a 2D image).")
    return Box.from_voxels(values[:3], values[3:], label=number)


def strategy_options(
    every: int, least_iou: float, fill_holes: bool, view_weights: str, vote_on: str, walk: str, agreement: bool = False
) -> Options:
    """The strategies' options from their texts.

    Raises:
        QMedSAMError: one of them cannot be.
    """
    try:
        axial, coronal, sagittal = (float(v) for v in view_weights.split(","))
    except ValueError:
        raise QMedSAMError(f"'{view_weights}' are not three weights.", "Give AXIAL,CORONAL,SAGITTAL, e.g. 1,1,0.") from None
    return Options(every, least_iou, fill_holes, (axial, coronal, sagittal), vote_on, walk, agreement)
