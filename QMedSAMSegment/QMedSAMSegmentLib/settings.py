"""What the user chooses for a run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Dict, List, Optional, Tuple

#: How a result enters its segment.
MODES = ("replace", "add")


@dataclass(frozen=True)
class Settings:
    """Settings of a run; every field is a string, as a Segment Editor effect's parameters are.

    Attributes:
        modality: a name that the engine knows, or ``auto`` (from DICOM).
        window: ``auto`` (by modality) or ``displayed`` (the window with which the volume is shown).
        strategy: ``auto`` or one of the engine's.
        model: a name, or ``auto`` (by modality).
        frame: ``auto`` (as the model was trained), ``roi`` or ``slice``.
        mode: ``replace`` the segment by its boxes' masks, or ``add`` them to it.
        agreement: ``yes`` to keep where the directions of a vote agreed, else ``no``.
    """

    modality: str = "auto"
    window: str = "auto"
    strategy: str = "auto"
    model: str = "auto"
    frame: str = "auto"
    mode: str = "replace"
    agreement: str = "no"

    @classmethod
    def names(cls) -> List[str]:
        """Of the fields."""
        return [field.name for field in fields(cls)]

    def engineOptions(self, window: Optional[Tuple[float, float]]) -> Dict[str, Any]:
        """Keyword arguments for ``Segmenter.segment``; ``window`` is used where ``displayed`` is chosen."""
        options: Dict[str, Any] = {
            "modality": self.modality,
            "strategy": self.strategy,
            "frame": None if self.frame == "auto" else self.frame,
            "window": window if self.window == "displayed" else None,
        }
        if self.agreement == "yes" and canVote():
            from qmedsam.strategies import Options

            options["options"] = Options(agreement=True)
        return options


def modalityChoices() -> List[str]:
    """``auto`` and the engine's modalities."""
    from qmedsam.intensity import MODALITIES

    return ["auto", *sorted(set(MODALITIES.values()))]


def strategyChoices() -> List[str]:
    """``auto`` and the engine's strategies."""
    from qmedsam.strategies import STRATEGIES

    return ["auto", *STRATEGIES]


def canVote() -> bool:
    """Whether the engine votes over directions."""
    return "vote" in strategyChoices()


def modelChoices() -> List[str]:
    """``auto`` and the models at hand, most important first."""
    from qmedsam import ModelStore

    return ["auto", *(model.name for model in ModelStore().models())]
