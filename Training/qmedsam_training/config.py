"""What a training run is told, as YAML, checked before anything heavy starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Literal, Optional

import yaml
from pydantic import BaseModel, ConfigDict, Field


class DataConfig(BaseModel):
    """Where samples come from and how they are framed."""

    model_config = ConfigDict(extra="forbid")
    manifest: Path
    synthetic: float = Field(0.25, ge=0, le=1, description="share of synthetic scenes")
    whole_slice: float = Field(0.2, ge=0, le=1, description="share of real samples whose frame is the whole slice")
    margin: float = Field(0.3, ge=0, description="of the ROI frame, in longer sides of the object")
    workers: int = Field(1, ge=0)


class TrainConfig(BaseModel):
    """One stage of training. Paths are relative to the folder that the command runs in."""

    model_config = ConfigDict(extra="forbid")
    architecture: str = "qmedsam-compact"
    options: Dict[str, Any] = Field(default_factory=dict, description="of the architecture")
    stage: Literal["float", "qat"] = "float"
    init: Optional[Path] = Field(None, description="checkpoint to start from (qat: a float one)")
    data: DataConfig
    input_size: int = Field(128, multiple_of=32)
    batch_size: int = Field(24, ge=1)
    steps: int = Field(10000, ge=1)
    minutes: Optional[float] = Field(None, description="wall-clock budget: the schedule ends here when it comes first")
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = 0.05
    warmup_steps: int = 300
    ema: float = Field(0.999, ge=0, lt=1)
    evaluate_every: int = 500
    seed: int = 0
    threads: Optional[int] = None
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    accelerator: str = "auto"
    devices: int = 1

    @classmethod
    def read(cls, path: Path, **overrides: Any) -> TrainConfig:
        """Read a YAML file; ``overrides`` that are not None win."""
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        values.update({k: v for k, v in overrides.items() if v is not None})
        return cls.model_validate(values)
