"""Networks that train or are exported in seconds, and commands typed within this process."""

from __future__ import annotations

from typing import Any, Tuple

import typer
from qmedsam_training.architectures.promptable import Promptable
from torch import Tensor, nn
from typer.testing import CliRunner

#: Options of qmedsam-compact at 64 pixels.
TINY = {"widths": [8, 16, 16, 24, 24], "depths": [1, 1, 1, 1], "embed": 16, "width": 32, "deep": 32}
#: Options of litemedsam: a narrow TinyViT; prompt encoder and mask decoder are the real ones.
NARROW = {"widths": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "heads": [1, 1, 1, 1], "windows": [4, 4, 4, 4]}


class EncoderAlone(Promptable):
    """An encoder for exports whose decoder nobody looks at: tracing that takes most of the time."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.image_encoder = encoder

    def encode(self, image: Tensor) -> Tensor:
        return self.image_encoder(image)

    def predict(self, embedding: Tensor, boxes: Tensor) -> Tuple[Tensor, Tensor]:
        """Of the shapes that an export wants."""
        return embedding.mean(1) + boxes[:, :1, None], boxes[:, 0]


def invoke(app: typer.Typer, *arguments: Any) -> str:
    """What a command prints; it must succeed, and its own errors come through as they are."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output
