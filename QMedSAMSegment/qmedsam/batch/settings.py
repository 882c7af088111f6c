"""What a run is told, what a case is, and what became of it. Plain data that travels as JSON between processes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ..errors import QMedSAMError
from ..files import FORMATS, format_of
from ..following import ALL, frame_path
from ..intensity import known_modality
from ..strategies import STRATEGIES, Options

#: (width, level).
Window = Tuple[float, float]

DONE, UNCHANGED, FAILED, NOT_RUN = "done", "unchanged", "failed", "not run"


#: Of one slice for sure (a TIFF may have many).
_PICTURES = (".png", ".jpg", ".jpeg", ".bmp")


def check_format(format: str) -> None:
    """Refuse what is no format of segmentations.

    Raises:
        QMedSAMError: it is none.
    """
    if format != "auto" and format not in FORMATS:
        raise QMedSAMError(f"There is no format '{format}'.", "Use one of: auto, " + ", ".join(FORMATS) + ".")


def suffix_of(format: str, volume: Path) -> str:
    """Of the segmentation of a volume or picture."""
    if format == "auto":
        format = "png" if "png" in FORMATS and volume.suffix.lower() in _PICTURES else "seg.nrrd"
    return FORMATS[format]


@dataclass(frozen=True)
class Settings:
    """What is the same for all cases of a run; the words are those of :meth:`qmedsam.Segmenter.segment`.

    Attributes:
        model: name or folder; None routes by modality.
        modality: of cases that name none themselves, or ``auto``.
        strategy, frame, window, options: see :meth:`qmedsam.Segmenter.segment`.
        margin: share of its length by which every side of a box is moved outward that comes from a segmentation.
        format: a key of :data:`qmedsam.files.FORMATS`, or ``auto``: PNG for pictures, ``.seg.nrrd`` for volumes.
        pictures: also write an overlay per case.
        frame_index: time point of volumes that have several, from 0; -1 for all of them; None refuses such volumes.

    Raises:
        QMedSAMError: one of them cannot be.
    """

    model: Optional[str] = None
    modality: str = "auto"
    strategy: str = "auto"
    frame: Optional[str] = None
    window: Optional[Window] = None
    options: Options = field(default_factory=Options)
    margin: float = 0.0
    format: str = "auto"
    pictures: bool = True
    frame_index: Optional[int] = None

    def __post_init__(self) -> None:
        if self.modality != "auto":
            known_modality(self.modality)
        if self.strategy != "auto" and self.strategy not in STRATEGIES:
            raise QMedSAMError(f"There is no strategy '{self.strategy}'.", "Use one of: auto, " + ", ".join(STRATEGIES) + ".")
        if self.frame not in (None, "roi", "slice"):
            raise QMedSAMError(f"There is no frame '{self.frame}'.", "Use 'roi' or 'slice'.")
        if not 0 <= self.margin <= 1:
            raise QMedSAMError(f"A margin of {self.margin:g} cannot be.", "Give a share from 0 to 1, e.g. 0.05.")
        check_format(self.format)

    def to_json(self) -> Dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Settings:
        options = dict(values["options"])
        options["view_weights"] = tuple(options["view_weights"])
        return cls(**{**values, "window": _pair(values["window"]), "options": Options(**options)})


@dataclass(frozen=True)
class Case:
    """One volume to segment.

    Attributes:
        name: says which it is; no other case of the run has it.
        volume: image file or DICOM folder.
        output: the segmentation to write.
        boxes: box files; their boxes are joined.
        drawn: boxes given with the case itself, in place of files: voxel indices (four or six) and a name, or ``""``.
        segmentation: of the same volume, whose segments give the boxes where there are no others.
        names: of the segmentation's labels, where its file has none.
        series: DICOM series UID, where the folder holds several.
        modality, model, window, frame_index: overrule the run's.
        problem: why it cannot be run; empty for most.
    """

    name: str
    volume: Path
    output: Path
    boxes: Tuple[Path, ...] = ()
    segmentation: Optional[Path] = None
    series: Optional[str] = None
    modality: Optional[str] = None
    model: Optional[str] = None
    window: Optional[Window] = None
    problem: str = ""
    drawn: Tuple[Tuple[Tuple[float, ...], str], ...] = ()
    names: Tuple[Tuple[int, str], ...] = ()
    frame_index: Optional[int] = None

    @property
    def has_boxes(self) -> bool:
        """Of files or its own: then the segmentation is not asked."""
        return bool(self.boxes or self.drawn)

    def frames_of(self, settings: Settings) -> Optional[int]:
        """The time point that is asked for, -1 for all, None where none is."""
        return settings.frame_index if self.frame_index is None else self.frame_index

    def first_output(self, settings: Settings) -> Path:
        """The segmentation, of a time series that of its first time point."""
        if self.frames_of(settings) != ALL:
            return self.output
        return frame_path(self.output, 0, format_of(self.output))

    def to_json(self) -> Dict[str, Any]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values.update(volume=str(self.volume), output=str(self.output), boxes=[str(path) for path in self.boxes])
        return {**values, "segmentation": str(self.segmentation) if self.segmentation else None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Case:
        paths = {"volume": Path(values["volume"]), "output": Path(values["output"])}
        others = {
            "boxes": tuple(map(Path, values["boxes"])),
            "segmentation": Path(values["segmentation"]) if values["segmentation"] else None,
            "window": _pair(values["window"]),
            "drawn": tuple((tuple(map(float, numbers)), name) for numbers, name in values["drawn"]),
            "names": tuple((int(value), name) for value, name in values["names"]),
        }
        return cls(**{**values, **paths, **others})


@dataclass
class Outcome:
    """What became of a case: a row of ``summary.csv``, a line of ``batch.jsonl``.

    Attributes:
        case: its name.
        state: ``done``, ``unchanged`` (the result of an earlier run is still right), ``failed`` or ``not run`` (stopped).
        seconds: from opening the volume to the segmentation on disk; of the earlier run for an unchanged case.
        voxels: of all objects together.
        volume_ml: the same in millilitres; None for a picture, and where the file tells no lengths.
        confidence: mean of the objects' own; None without a result.
        message: why it failed, or what is to be known about it.
        output: the segmentation; empty where there is none.
        overlay: its picture, relative to the run's folder; empty where there is none.
        model, modality, strategy: what was used.
        objects: what :meth:`.ObjectResult.facts` says of each; error says why one could not be segmented: the
            case has ``failed`` then, and the segmentation holds the others.
        key: SHA-256 over the contents of all inputs and the settings: cases with the same key have the same result.
        inputs: what the key was made of, to look up why a case was done again.
        sizes: bytes of the inputs; cases whose sizes differ cannot be the same.
        is_3d: several slices, or a picture.
        model_sha256: of the model's manifest, which holds the checksums of its networks.
        output_sha256: of the segmentation.
        others: of a time series, name and SHA-256 of the segmentations of its later time points, which lie beside ``output``.
        worker: host and process that did it.
        stages: seconds per stage of the engine (``load``: of the model, 0 where it was loaded before).
    """

    case: str
    state: str
    seconds: float = 0.0
    voxels: int = 0
    volume_ml: Optional[float] = None
    confidence: Optional[float] = None
    message: str = ""
    output: str = ""
    overlay: str = ""
    model: str = ""
    modality: str = ""
    strategy: str = ""
    objects: List[Dict[str, Any]] = field(default_factory=list)
    key: str = ""
    inputs: Dict[str, Any] = field(default_factory=dict)
    sizes: List[int] = field(default_factory=list)
    model_sha256: str = ""
    is_3d: bool = True
    output_sha256: str = ""
    others: List[List[str]] = field(default_factory=list)
    worker: str = ""
    stages: Dict[str, float] = field(default_factory=dict)

    def to_json(self) -> Dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Outcome:
        known = {f.name for f in fields(cls)}
        return cls(**{key: value for key, value in values.items() if key in known})


def _pair(value: Any) -> Optional[Window]:
    return None if value is None else (float(value[0]), float(value[1]))
