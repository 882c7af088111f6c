"""Dice + cross entropy on the masks, squared error on the predicted IoU."""

from __future__ import annotations

from typing import Tuple

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from torch import Tensor

_DICE = DiceLoss(sigmoid=True, squared_pred=True, smooth_nr=1.0, smooth_dr=1.0, batch=False)


def overlap(logits: Tensor, masks: Tensor) -> Tuple[Tensor, Tensor]:
    """DSC and IoU of thresholded logits, per mask; both inputs ``N x H x W``."""
    predicted, truth = logits > 0, masks > 0.5
    both = (predicted & truth).flatten(1).sum(1).float()
    total = predicted.flatten(1).sum(1) + truth.flatten(1).sum(1)
    return (2 * both + 1e-6) / (total + 1e-6), (both + 1e-6) / (total - both + 1e-6)


def prompt_loss(logits: Tensor, confidence: Tensor, masks: Tensor) -> Tuple[Tensor, Tensor]:
    """The training loss and the mean DSC.

    Args:
        logits: ``N x h x w``.
        confidence: predicted IoU, ``N``.
        masks: ``N x H x W`` in 0..1; averaged down to the logits' grid, so borders stay soft.
    """
    logits = logits.float()
    target = F.interpolate(masks[:, None], size=logits.shape[-2:], mode="area")
    dice = _DICE(logits[:, None], target)
    entropy = F.binary_cross_entropy_with_logits(logits[:, None], target)
    with torch.no_grad():
        dsc, iou = overlap(logits, target[:, 0])
        iou = iou * (target[:, 0] > 0.5).flatten(1).any(1)  # nothing there: nothing to be confident of
    return dice + entropy + 0.1 * F.mse_loss(confidence.float(), iou), dsc.mean()
