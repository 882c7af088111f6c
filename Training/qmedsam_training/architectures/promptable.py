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
        hints, kinds: how many maps and kinds of boxes :meth:`predict` takes beside boxes; 0 for boxes alone.
        candidates: how many masks it gives for a prompt.
    """

    prompt_scale: float = 1.0
    hints: int = 0
    kinds: int = 0
    candidates: int = 1

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
        return self.predict(embedding, boxes * self.prompt_scale, *self.silence(boxes))[0]

    def silence(self, boxes: Tensor) -> Tuple[Tensor, ...]:
        """Hints and kinds that say nothing about boxes; nothing for a network that takes boxes alone."""
        if not self.hints:
            return ()
        side = self.hint_side
        return boxes.new_zeros(len(boxes), self.hints, side, side), boxes.new_zeros(len(boxes), self.kinds)

    @property
    def hint_side(self) -> int:
        """Pixels along a side of the hints and of the logits."""
        raise QMedSAMError(f"{type(self).__name__} takes no hints.", "Only the compact network does.")

    def forward(self, image: Tensor, boxes: Tensor, image_of_box: Tensor, *said: Tensor) -> Tuple[Tensor, Tensor]:
        """Training: boxes of several images at once, in network pixels.

        Args:
            image: ``B x 3 x S x S``.
            boxes: ``N x 4``.
            image_of_box: ``N``, which image each is on.
            said: hints and kinds; silence where they are left out.
        """
        embedding = self.encode(image)[image_of_box]
        return self.predict(embedding, boxes * self.prompt_scale, *(said or self.silence(boxes)))
