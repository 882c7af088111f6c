"""How fast and how well this machine does it: one organ of the shipped phantom."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

from qmedsam import QMedSAMError, Segmenter

ORGAN = "right kidney"


@dataclass(frozen=True)
class Check:
    """Result of :func:`selfCheck`.

    Model used, milliseconds per slice, slices, overlap (DSC) with the truth, and what the engine had to say: that this computer's
    answer differs from the model's reference answer, above all.
    """

    model: str
    msPerSlice: float
    slices: int
    dsc: float
    messages: str = ""

    def __str__(self) -> str:
        return (
            f"Your machine: {self.msPerSlice:.0f} ms per slice ({self.slices} slices of the sample's {ORGAN} with {self.model}; "
            f"DSC {self.dsc:.3f} against the truth)." + (f" {self.messages}" if self.messages else "")
        )


def sampleFolder() -> Path:
    """Where the sample data lies: beside the shipped models, in the source tree as in an installed extension."""
    from qmedsam.models import shipped_folder

    return shipped_folder().parent / "SampleData"


def selfCheck(
    segmenter: Segmenter,
    progress: Optional[Callable[[int, int], None]] = None,
    cancelled: Optional[Callable[[], bool]] = None,
) -> Optional[Check]:
    """Segment one organ of the sample twice (the first time loads the network) and compare with the truth.

    Returns:
        None when cancelled.

    Raises:
        QMedSAMError: the sample or the model is missing or damaged, or OpenVINO is not there.
    """
    from qmedsam.files import read_boxes, read_labels, read_volume

    folder = sampleFolder()
    volume = read_volume(folder / "QMedSAMPhantom.nrrd")
    box = next((b for b in read_boxes(folder / "QMedSAMPhantom-boxes.mrk.json", volume) if b.name == ORGAN), None)
    if box is None:
        raise QMedSAMError(f"The sample has no box '{ORGAN}'.", "Install the extension again.")
    truth = read_labels(folder / "QMedSAMPhantom-truth.seg.nrrd") == box.label
    for _ in range(2):
        result = segmenter.segment(volume, [box], modality="CT", progress=progress, cancelled=cancelled)
        if result.cancelled:
            return None
    found = result.labels_kji == box.label
    slices = len(box.slices(2, volume.shape_ijk[2]))
    dsc = 2 * int((found & truth).sum()) / max(int(found.sum()) + int(truth.sum()), 1)
    return Check(result.model, 1000 * result.seconds["total"] / slices, slices, dsc, " ".join(result.messages))
