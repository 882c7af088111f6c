"""What a training run is told, as YAML, checked before anything heavy starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Literal, Optional

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from qmedsam import QMedSAMError


class Strict(BaseModel):
    """Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid")


class QuantizationConfig(Strict):
    """How weights and activations are quantized. The defaults deploy in int8; lower widths are experiments."""

    parts: List[str] = Field(["image_encoder", "mask_decoder"], min_length=1, description="children of the network")
    weight_bits: int = Field(8, ge=2, le=8, description="below 8: an experiment, values are still stored as int8")
    activation_bits: int = Field(8, ge=2, le=8, description="the same")
    per_channel: bool = Field(True, description="one weight scale per output channel (the paper: one per layer)")
    overflow: Literal["channel", "7bit", "none"] = Field(
        "channel", description="how products are kept within 16 bits (quantization.Widths); none: only for comparisons"
    )
    skip: List[str] = Field(default_factory=list, description="layers, or what holds layers, that stay float: part.name")
    calibration_images: int = Field(192, ge=1, description="that activation scales are initialised from")


class NetworkConfig(Strict):
    """A network and its form; every checkpoint carries this, so that it can be loaded without its configuration."""

    architecture: str = Field(
        "qmedsam-compact", description="litemedsam, medsam, efficientvit-sam-l0 to -l2, efficient-sam-ti or -s"
    )
    options: Dict[str, Any] = Field(default_factory=dict, description="of the architecture")
    input_size: Optional[int] = Field(None, ge=32, description="default: the architecture's")
    margin: float = Field(0.3, ge=0, description="of the ROI frame, in longer sides of the object")
    frame: Optional[Literal["roi", "slice"]] = Field(
        None,
        description="what it is shown at run time; default: slice when trained on nothing else, the architecture's untrained",
    )
    quantization: Optional[QuantizationConfig] = None

    @property
    def side(self) -> int:
        """The input size, which :func:`_of_the_architectures_size` settled."""
        if self.input_size is None:
            raise QMedSAMError(f"There is no architecture '{self.architecture}'.", "Give its input_size.")
        return self.input_size

    @model_validator(mode="after")
    def _of_the_architectures_size(self) -> NetworkConfig:
        from .architectures import ARCHITECTURES  # torch: a command's --help does without

        known = ARCHITECTURES.get(self.architecture)
        if known is None:
            raise QMedSAMError(f"There is no architecture '{self.architecture}'.", f"Known: {', '.join(sorted(ARCHITECTURES))}.")
        self.input_size = self.input_size or known.input_size
        if not known.takes(self.input_size):
            sizes = f"multiples of {known.multiple}" if known.multiple else f"{known.input_size} alone"
            raise QMedSAMError(f"{self.architecture} cannot have the input_size {self.input_size}.", f"It takes {sizes}.")
        return self


def read_yaml(path: Path) -> Dict[str, Any]:
    """A mapping from a YAML file.

    Raises:
        QMedSAMError: unreadable, or something else.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise QMedSAMError(f"'{path}' could not be read.", str(error).splitlines()[0]) from error
    if not isinstance(values, dict):
        raise QMedSAMError(f"'{path}' is not a configuration.", "See Training/configs for examples.")
    return values


def invalid(path: Path, error: ValidationError) -> QMedSAMError:
    """The first mistake of a YAML file in a sentence."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "the whole"
    wrong = "there is no such setting" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
    return QMedSAMError(f"'{Path(path).name}' is not valid: {place}: {wrong}.", "Correct it there.")


class FolderConfig(Strict):
    """NIfTI (or other) images beside their label maps, paired by name; nnU-Net's ``_0000`` is understood."""

    images: Path = Field(description="folder")
    labels: Path = Field(description="folder of label maps with the images' names (the image's may end in _0000)")
    modality: str = Field(description="CT, MR, PET, US, XRay, ...")
    source: Optional[str] = Field(None, description="name in tables; default: the folder's")


class DataConfig(Strict):
    """Where samples come from and how they are framed. Labelled cases (manifest, folders) or the challenge's npz."""

    manifest: Optional[Path] = Field(None, description="CSV of labelled cases; its train split is used")
    folders: List[FolderConfig] = Field(default_factory=list, description="of your own images and label maps")
    challenge: Optional[Path] = Field(None, description="folder of modality/dataset/*.npz, or an index made of one")
    samples_per_epoch: int = Field(9600, ge=1, description="labelled cases only; the challenge's sampler decides itself")
    sampler: Literal["min", "one-tenth", "all"] = Field("min", description="clips per modality and epoch (QMedSAM paper, 3.1)")
    held_out: float = Field(0.12, ge=0, lt=1, description="share of patients or files that choose a checkpoint; 0: the last one")
    held_out_least: int = Field(
        5, ge=2, description="fewest patients that may choose; where that is over a quarter of all, they are held out in folds"
    )
    folds: int = Field(3, ge=0, description="into how many parts few patients are dealt, each held out in turn; 0: never")
    fold: Optional[int] = Field(None, ge=0, description="the one that this run holds out; set by a run of folds")
    held_out_per_group: int = Field(
        24, ge=1, description="objects of a modality or source that are scored; of every patient at least one"
    )
    held_out_jitter: float = Field(0.0, ge=0, description="each side of a held-out object's box moves out by up to this share")
    synthetic: float = Field(0.25, ge=0, le=1, description="share of synthetic scenes")
    whole_slice: float = Field(0.2, ge=0, le=1, description="share of real samples whose frame is the whole slice")
    propagated: float = Field(0.4, ge=0, le=1, description="share of 3D samples prompted from other slices of the object")
    augmentation: float = Field(
        1.0, ge=0, le=1, description="how far from what the engine asks: scales odds and reach of every change; 0: flips alone"
    )
    box_shift: Optional[float] = Field(
        None,
        ge=0,
        description="boxes grow by 0 to this many 256ths of the input (paper: 10); default: as users draw",
    )
    cache_mib: int = Field(1024, ge=0, description="decompressed volumes kept, per worker")
    workers: int = Field(1, ge=0, description="processes that draw samples; 0: the one that trains does")

    @model_validator(mode="after")
    def _one_kind(self) -> DataConfig:
        if bool(self.challenge) == bool(self.manifest or self.folders):
            raise ValueError("give either 'challenge', or 'manifest' and/or 'folders'")
        if self.fold is not None and self.fold >= self.folds:
            raise ValueError(f"of {self.folds} folds the last is number {self.folds - 1}, not {self.fold}")
        return self


class LossConfig(Strict):
    """Region term (Dice, squared) + pixel term + squared error of the predicted IoU."""

    pixel: Literal["focal", "bce"] = Field("bce", description="term per pixel, beside Dice")
    pixel_weight: float = Field(1.0, ge=0, description="of that term")
    iou_weight: float = Field(0.1, ge=0, description="of the squared error of the predicted IoU")


class TeacherConfig(Strict):
    """A float network whose embeddings the student's encoder learns to match (QMedSAM paper, section 2.3)."""

    architecture: str = Field(description="as that of the student")
    checkpoint: Optional[Path] = Field(None, description="public or ours; none: random weights, for trials alone")
    options: Dict[str, Any] = Field(default_factory=dict, description="of the architecture")
    input_size: Optional[int] = Field(None, description="default: the architecture's")
    weight: float = Field(1.0, gt=0, description="of its term in the loss")

    @model_validator(mode="after")
    def _is_a_network(self) -> TeacherConfig:
        NetworkConfig(architecture=self.architecture, options=self.options, input_size=self.input_size)
        return self


class OptimizerConfig(Strict):
    """Optimizer and learning-rate schedule."""

    kind: Literal["adamw", "sgd"] = Field("adamw", description="sgd has a momentum of 0.9")
    learning_rate: float = Field(1e-3, gt=0, description="the largest")
    weight_decay: float = Field(0.05, ge=0, description="of matrices and kernels")
    sharpness: float = Field(0.0, ge=0, description="rho of sharpness-aware minimization; 0: off (its authors' default: 0.05)")
    clip: Optional[float] = Field(1.0, gt=0, description="largest norm of a gradient; null: any, as in the papers")
    schedule: Literal["cosine", "plateau"] = Field("cosine", description="plateau: follows the held-out score")
    warmup_epochs: float = Field(0.1, ge=0, description="linear, from 1 %")
    patience: int = Field(2, ge=0, description="plateau: epochs without improvement before the rate is divided by ten")


class TrainConfig(NetworkConfig):
    """One stage of training. Paths are relative to the folder that the command runs in."""

    init: Optional[Path] = Field(None, description="checkpoint to start from: ours (float or quantized), or a public one")
    freeze: List[str] = Field(default_factory=list, description="children of the network that are not trained")
    freeze_norms: bool = Field(False, description="keep the statistics of batch normalisations")
    data: DataConfig
    loss: LossConfig = LossConfig()
    teacher: Optional[TeacherConfig] = None
    optimizer: OptimizerConfig = OptimizerConfig()
    batch_size: int = Field(24, ge=1, description="of all devices together")
    epochs: int = Field(10, ge=1, description="the schedule's length; scored and perhaps kept after each")
    minutes: Optional[float] = Field(None, gt=0, description="wall-clock budget: the schedule ends here when it comes first")
    ema: float = Field(
        0.999,
        ge=0,
        lt=1,
        description="largest decay of the averaged weights that are scored and kept (less at first); 0: none",
    )
    statistics_images: int = Field(
        96, ge=1, description="that the averaged weights' batch normalisations take their statistics from before every scoring"
    )
    checkpoint_minutes: float = Field(5, ge=0, description="how often a running epoch is saved")
    tensorboard: bool = Field(False, description="write events too (an extra: pip install tensorboardX)")
    seed: int = Field(0, ge=0, le=2**32 - 1, description="of everything that is drawn")
    threads: Optional[int] = Field(None, ge=1, le=1024, description="of one process, never more than the machine has cores")
    precision: Literal["32-true", "bf16-mixed"] = Field("32-true", description="bf16 is faster where the processor or GPU has it")
    accelerator: Literal["auto", "cpu", "cuda", "gpu", "mps"] = Field("auto", description="auto: a GPU where there is one")
    devices: int = Field(1, ge=1, description="GPUs (or, on a CPU, processes) of one machine")
    nodes: int = Field(1, ge=1, description="machines; the command is started on each")

    @model_validator(mode="after")
    def _shown_as_trained(self) -> TrainConfig:
        self.frame = self.frame or ("slice" if self.data.whole_slice == 1 else "roi")
        return self

    @model_validator(mode="after")
    def _plateau_of_something(self) -> TrainConfig:
        if self.optimizer.schedule == "plateau" and self.data.held_out == 0:
            raise ValueError("schedule 'plateau' follows the held-out score: hold somebody out, or use 'cosine'")
        return self

    @classmethod
    def read(cls, path: Path, **overrides: Any) -> TrainConfig:
        """Read a YAML file; ``overrides`` that are not None win (``optimizer__learning_rate`` reaches inside).

        Data of one kind that overrides takes the place of the other kind.

        Raises:
            QMedSAMError: no YAML mapping, or one that does not fit, with the place.
        """
        values = read_yaml(path)
        for name, value in overrides.items():
            if value is not None:
                *sections, key = name.split("__")
                inner = values
                for section in sections:
                    if inner.get(section) is None:
                        inner[section] = {}
                    inner = inner[section]
                    if not isinstance(inner, dict):
                        raise QMedSAMError(f"'{Path(path).name}' is not valid: {section} is no section.", "Correct it there.")
                inner[key] = value
        for kind, others in (
            ("manifest", ("challenge",)),
            ("challenge", ("manifest", "folders")),
            ("folders", ("challenge", "manifest")),
        ):
            for other in others:
                if overrides.get(f"data__{kind}") is not None and overrides.get(f"data__{other}") is None:
                    values["data"].pop(other, None)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise invalid(path, error) from error
