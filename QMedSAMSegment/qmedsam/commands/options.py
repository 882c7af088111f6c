"""Options that several commands have, stated once.

Nothing of the engine is imported for them: ``qmedsam --help`` must not wait for it. A test compares what they say with it.
"""

from __future__ import annotations

import typer

STRATEGY = typer.Option(
    "auto",
    help="auto (by modality), fixed (the box on every slice), propagate (from the best slice outwards) or vote (three views).",
)
MODEL = typer.Option(None, help="Name or folder of a model; default: by modality.")
FRAME = typer.Option(None, help="What the network sees: roi (the box with a margin) or slice; default: the model's own.")
WINDOW = typer.Option(None, help="WIDTH,LEVEL, or one of abdomen, lung, brain, mediastinum, bone.")
MODALITY = typer.Option("auto", help="CT, MR, PET, US, XRay, ... or auto (from the file).")
THREADS = typer.Option(0, min=0, help="CPU threads; 0 takes all.")
DEVICE = typer.Option(
    "CPU",
    help="CPU, GPU, NPU or AUTO, as OpenVINO offers them. Tested on CPUs alone; others must give the stored answer.",
)
EVERY = typer.Option(1, min=1, help="propagate and vote: encode every n-th slice, interpolate the shape between.")
LEAST_IOU = typer.Option(0.0, min=0, max=1, help="propagate: interpolate only between masks that overlap by this; else encode.")
FILL_HOLES = typer.Option(False, "--fill-holes", help="propagate: close the holes of every slice's mask.")
VIEW_WEIGHTS = typer.Option("1,1,1", help="vote: weights of the axial, coronal and sagittal view; 0 leaves one out.")
VOTE_ON = typer.Option("probability", help="vote: mask (2 of 3) or probability.")
WALK = typer.Option("propagate", help="vote: how each view is prompted: fixed, taper or propagate.")
FRAME_INDEX = typer.Option(
    None, help="Of a time series (4D NIfTI, .seq.nrrd, cine or multi-phase DICOM): a time point from 0, or all (boxes follow)."
)
