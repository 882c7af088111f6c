"""Dice + focal or cross entropy on the masks, squared error on the predicted IoU."""

from __future__ import annotations

from typing import Tuple

import torch
import torch.nn.functional as F
from monai.losses.dice import DiceLoss
from monai.losses.focal_loss import FocalLoss
from torch import Tensor

from .config import LossConfig

_DICE = DiceLoss(sigmoid=True, squared_pred=True, smooth_nr=1.0, smooth_dr=1.0, batch=False, reduction="none")
_FOCAL = FocalLoss(gamma=2.0, reduction="none")


def overlap(logits: Tensor, masks: Tensor) -> Tuple[Tensor, Tensor]:
    """DSC and IoU of thresholded logits, per mask; both inputs ``N x H x W``."""
    predicted, truth = logits > 0, masks > 0.5
    both = (predicted & truth).flatten(1).sum(1).float()
    total = predicted.flatten(1).sum(1) + truth.flatten(1).sum(1)
    return (2 * both + 1e-6) / (total + 1e-6), (both + 1e-6) / (total - both + 1e-6)


def prompt_loss(logits: Tensor, confidence: Tensor, masks: Tensor, config: LossConfig) -> Tuple[Tensor, Tensor]:
    """The training loss and the DSC of every mask.

    Args:
        logits: ``N x h x w``.
        confidence: predicted IoU, ``N``.
        masks: ``N x H x W`` in 0..1; averaged down to the logits' grid, so borders stay soft.
        config: pixel term and weights.

    Returns:
        The loss per mask and the DSC per mask, both ``N``: the caller averages, over all processes alike.
    """
    logits = logits.float()
    target = F.interpolate(masks[:, None], size=logits.shape[-2:], mode="area")
    region = _DICE(logits[:, None], target).flatten()
    if config.pixel == "focal":
        pixel = _FOCAL(logits[:, None], target).flatten(1).mean(1)
    else:
        pixel = F.binary_cross_entropy_with_logits(logits, target[:, 0], reduction="none").flatten(1).mean(1)
    with torch.no_grad():
        dsc, iou = overlap(logits, target[:, 0])
        iou = iou * (target[:, 0] > 0.5).flatten(1).any(1)  # nothing there: nothing to be confident of
    quality = F.mse_loss(confidence.float(), iou, reduction="none")
    return region + config.pixel_weight * pixel + config.iou_weight * quality, dsc
