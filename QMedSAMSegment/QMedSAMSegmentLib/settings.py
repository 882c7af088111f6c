"""What the user chooses for a run."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Dict, List, Mapping, Optional, Tuple

from qmedsam import QMedSAMError

#: How a result enters its segment.
MODES = ("replace", "add")
#: What the network sees of a slice.
FRAMES = ("auto", "roi", "slice")


@dataclass(frozen=True)
class Settings:
    """Settings of a run; every field is a string, as a Segment Editor effect's parameters are.

    Attributes:
        modality: a name that the engine knows, or ``auto`` (from DICOM).
        window: ``auto`` (by modality), ``displayed`` (the window with which the volume is shown), the name of one of the engine's
            windows (``bone``), or ``WIDTH,LEVEL``.
        strategy: ``auto`` or one of the engine's.
        model: a name, or ``auto`` (by modality).
        frame: ``auto`` (as the model was trained), ``roi`` or ``slice``.
        mode: ``replace`` the segment by its boxes' masks, or ``add`` them to it.
        agreement: ``yes`` to keep where the directions of a vote agreed, else ``no``.

    Raises:
        QMedSAMError: a value that nobody knows, named with those that are known. A model is looked for when it is loaded.
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

    @classmethod
    def of(cls, values: Mapping[str, str]) -> Settings:
        """From an effect's parameters; an empty one, as a parameter that was never set reads, is the default.

        Raises:
            QMedSAMError: as the constructor.
        """
        return cls(**{name: value for name, value in values.items() if value != ""})

    def changed(self, **changes: str) -> Settings:
        """A copy with single settings changed.

        Raises:
            QMedSAMError: there is no such setting, or as the constructor.
        """
        for name in changes:
            if name not in self.names():
                raise QMedSAMError(f"There is no setting '{name}'.", f"Use: {', '.join(self.names())}.")
        return replace(self, **changes)

    def __post_init__(self) -> None:
        for name in self.names():
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise QMedSAMError(f"The setting {name} is {value!r}, which is not a name.", "Give one, for example 'auto'.")
        known = {"strategy": strategyChoices(), "frame": FRAMES, "mode": MODES, "agreement": ("yes", "no")}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise QMedSAMError(f"There is no {name} '{getattr(self, name)}'.", f"Use one of: {', '.join(values)}.")
        if self.modality != "auto":
            from qmedsam.intensity import known_modality

            known_modality(self.modality)
        if self.window not in ("auto", "displayed"):
            self._window()

    def _window(self) -> Tuple[float, float]:
        from qmedsam.intensity import parse_window

        try:
            return parse_window(self.window)
        except QMedSAMError as error:
            raise QMedSAMError(error.message, "Use auto, displayed, " + error.hint[0].lower() + error.hint[1:]) from None

    def engineOptions(self, displayed: Optional[Tuple[float, float]]) -> Dict[str, Any]:
        """Keyword arguments for ``Segmenter.segment``; ``displayed`` is used where the window is to be that."""
        options: Dict[str, Any] = {
            "modality": self.modality,
            "strategy": self.strategy,
            "frame": None if self.frame == "auto" else self.frame,
            "window": displayed if self.window == "displayed" else None if self.window == "auto" else self._window(),
        }
        if self.agreement == "yes" and canVote():
            from qmedsam.strategies import Options

            options["options"] = Options(agreement=True)
        return options


def modalityChoices() -> List[str]:
    """``auto`` and the engine's modalities."""
    from qmedsam.intensity import MODALITIES

    return ["auto", *sorted(set(MODALITIES.values()))]


def windowChoices() -> List[str]:
    """``auto``, ``displayed`` and the engine's windows."""
    from qmedsam.intensity import CT_WINDOWS

    return ["auto", "displayed", *CT_WINDOWS]


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
