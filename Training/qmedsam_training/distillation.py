"""A larger float network teaches the encoder: IoU of the teacher's masks times the distance of the embeddings."""

from __future__ import annotations

from typing import Any, Dict, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architectures import ARCHITECTURES
from .architectures.promptable import Promptable
from .config import NetworkConfig, TeacherConfig
from .losses import overlap
from .networks import start


def teaching(config: TeacherConfig) -> Promptable:
    """The network that a configuration names.

    Raises:
        QMedSAMError: its checkpoint cannot be used.
    """
    size = config.input_size or ARCHITECTURES[config.architecture].input_size
    return start(NetworkConfig(architecture=config.architecture, options=config.options, input_size=size), config.checkpoint)[0]


class Teacher(nn.Module):
    """A frozen float network, and the adapter between the two embeddings where they differ.

    QMedSAM paper, section 2.3: where the teacher's mask is good the student's embedding should be the teacher's; where
    the teacher is wrong it has nothing to teach.

    Args:
        config: which network.
        student: to see how its embeddings look.
        input_size: of the student.
        normalization: of the student's images, as a manifest says it.
    """

    def __init__(self, config: TeacherConfig, student: Promptable, input_size: int, normalization: Dict[str, Any]) -> None:
        super().__init__()
        known = ARCHITECTURES[config.architecture]
        self.size, self.student_size = config.input_size or known.input_size, input_size
        # Images of 0..1 by their own extremes are what LiteMedSAM and MedSAM share; anything else has to be undone.
        self.given, self.wanted = normalization, known.normalization
        self.network = teaching(config).eval().requires_grad_(False)
        with torch.no_grad():
            own = student.eval().encode(torch.zeros(1, 3, input_size, input_size)).shape[1]
            wanted = self.network.encode(torch.zeros(1, 3, self.size, self.size)).shape[1]
        #: Thrown away after training.
        self.adapter = nn.Identity() if own == wanted else nn.Conv2d(own, wanted, 1)

    def train(self, mode: bool = True) -> Teacher:
        """The network always evaluates."""
        super().train(mode)
        self.network.eval()
        return self

    def seen(self, images: Tensor) -> Tensor:
        """The student's images at the teacher's size and in its normalisation."""
        images = F.interpolate(images, size=(self.size, self.size), mode="bilinear", align_corners=False)
        if self.given != self.wanted:
            if self.given["kind"] == "fixed":
                mean, deviation = _channels(self.given, images)
                images = images * deviation + mean
            flat = images.flatten(1)
            low, high = (v[:, None, None, None] for v in (flat.amin(1), flat.amax(1)))
            images = (images - low) / (high - low).clamp(min=1e-6)
            if self.wanted["kind"] == "zscore":
                images = (images - images.mean((1, 2, 3), keepdim=True)) / images.std((1, 2, 3), keepdim=True).clamp(min=1e-3)
            elif self.wanted["kind"] == "fixed":
                mean, deviation = _channels(self.wanted, images)
                images = (images - mean) / deviation
        return images

    def forward(self, embedding: Tensor, images: Tensor, boxes: Tensor, masks: Tensor, owner: Tensor) -> Tensor:
        """Mean over the images of (mean IoU of the teacher on the image's boxes) x (MSE of the embeddings).

        Args:
            embedding: the student's, ``B x C x G x G``.
            images: as the student saw them, ``B x 3 x S x S``.
            boxes, masks, owner: ``N x 4`` in the student's pixels, ``N x S x S``, ``N``.
        """
        with torch.no_grad():
            goal, iou = self._lesson(images, boxes, masks, owner)
        ours = self.adapter(embedding.float())
        if ours.shape[-1] != goal.shape[-1]:
            goal = F.interpolate(goal, size=ours.shape[-2:], mode="bilinear", align_corners=False, antialias=True)
        return (iou * (ours - goal).square().mean((1, 2, 3))).mean()

    def _lesson(self, images: Tensor, boxes: Tensor, masks: Tensor, owner: Tensor) -> Tuple[Tensor, Tensor]:
        # One image at a time: MedSAM's attention over 4096 tokens took 8 GiB for two of them.
        goal = torch.cat([self.network.encode(self.seen(image[None])).float() for image in images])
        # pixel centres are integers, so an edge e of the small frame is (e + 0.5) * ratio - 0.5 of the large one
        scaled = (boxes + 0.5) * (self.size / self.student_size) - 0.5
        logits = torch.cat([self.network.decode(goal[o : o + 1], box[None]) for o, box in zip(owner.tolist(), scaled)])
        target = F.interpolate(masks[:, None], size=logits.shape[-2:], mode="area")[:, 0]
        iou = overlap(logits, target)[1]
        sums = torch.zeros(len(images), device=iou.device).index_add_(0, owner, iou)
        return goal, sums / torch.bincount(owner, minlength=len(images)).clamp(min=1)


def _channels(normalization: Dict[str, Any], images: Tensor) -> Tuple[Tensor, Tensor]:
    """Mean and deviation of the channels, to go with ``B x 3 x S x S``."""
    mean, deviation = (images.new_tensor(normalization[name])[:, None, None] for name in ("mean", "std"))
    return mean, deviation
