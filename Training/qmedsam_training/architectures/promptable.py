"""What every network here can do, whatever its parts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Tuple

from qmedsam import QMedSAMError
from torch import Tensor, nn


class Promptable(nn.Module, ABC):
    """Encode an image once, prompt it with boxes as often as needed.

    Attributes:
        prompt_scale: units of the prompt frame per network pixel (EfficientViT-SAM: images of 512, boxes of 1024).
    """

    prompt_scale: float = 1.0

    @abstractmethod
    def encode(self, image: Tensor) -> Tensor:
        """``B x 3 x S x S`` normalised images to ``B x C x G x G`` embeddings."""

    @abstractmethod
    def predict(self, embedding: Tensor, boxes: Tensor) -> Tuple[Tensor, Tensor]:
        """Masks and how good they are; what is exported as the decoder.

        Args:
            embedding: ``1 x C x G x G`` of the image that all boxes are on, or ``N x ...``, one per box.
            boxes: ``N x 4``, xyxy in the prompt frame.

        Returns:
            Logits ``N x m x m`` and predicted IoU ``N``.
        """

    def move_logits(self, by: float) -> None:
        """Add a constant to every logit, in the weights.

        Raises:
            QMedSAMError: this architecture has no bias of its own on the masks.
        """
        raise QMedSAMError(f"The masks of {type(self).__name__} have no bias to move.", "Only the compact network's do.")

    def decode(self, embedding: Tensor, boxes: Tensor) -> Tensor:
        """The logits of :meth:`predict` alone, for boxes in network pixels."""
        return self.predict(embedding, boxes * self.prompt_scale)[0]

    def forward(self, image: Tensor, boxes: Tensor, image_of_box: Tensor) -> Tuple[Tensor, Tensor]:
        """Training: boxes of several images at once, in network pixels; ``image_of_box`` (``N``) says which image each is on."""
        return self.predict(self.encode(image)[image_of_box], boxes * self.prompt_scale)
