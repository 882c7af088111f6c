"""A decoder trained on embeddings that are computed once: what a frozen encoder allows (QMedSAM paper, stage 2).

LiteMedSAM's encoder costs thirty times what its decoder does; where it does not learn, showing it every image once is enough.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from qmedsam.files import writing
from qmedsam.network import Network
from torch import Tensor

from .architectures.promptable import Promptable
from .config import LossConfig, OptimizerConfig
from .data import HeldOut, Source
from .evaluation import TorchNetwork
from .losses import overlap, prompt_loss
from .networks import make_folder
from .optimization import cosine, make_optimizer, warm_up
from .quantization import calibrated

Tell = Callable[[int, int], None]


class Lesson(NamedTuple):
    """What a decoder is shown of one image: ``1 x C x G x G`` in half precision, boxes ``N x 4`` and masks ``N x S x S``."""

    embedding: Tensor
    boxes: Tensor
    masks: Tensor


class Answers(NamedTuple):
    """What a network says of its own lessons, learned in place of the labels.

    Attributes:
        model: asked for its logits and predicted IoU; does not learn.
        paths: of :func:`lessons` of the same source and seed, encoded by this network: the same images and boxes, in order.
    """

    model: Promptable
    paths: Sequence[Path]


def lessons(
    network: Network, source: Source, count: int, folder: Path, seed: int = 0, tell: Tell = lambda n, of: None
) -> List[Path]:
    """The first samples of a source with their embeddings, a file each; what is there already is not computed again.

    Args:
        network: whose encoder it is; its runtime does not matter.
        source: draws and frames the images.
        count: of images.
        folder: of these lessons alone.
        seed: of the draws.
        tell: how many of how many are done.

    Returns:
        The files, for :func:`fit_decoder`.

    Raises:
        QMedSAMError: the folder cannot be written to, or no image can be drawn.
    """
    make_folder(folder)
    keys, paths = source.epoch(0), [folder / f"{n:05d}.pt" for n in range(count)]
    for n, path in enumerate(paths):
        if not path.is_file():
            sample = source.sample(int(keys[n % len(keys)]), np.random.default_rng((seed, 0, n)))
            embedding = torch.from_numpy(np.array(network.encode(sample.image.numpy()))).half()
            with writing(path) as partial:
                torch.save((embedding, sample.boxes, sample.masks > 0.5), partial)
        tell(n + 1, count)
    return paths


def read_lesson(path: Path) -> Lesson:
    """One of :func:`lessons`, in single precision."""
    embedding, boxes, masks = torch.load(path, weights_only=True)
    return Lesson(embedding.float(), boxes, masks.float())


def fit_decoder(
    model: Promptable,
    paths: Sequence[Path],
    loss: LossConfig,
    optimizer: OptimizerConfig,
    epochs: int,
    batch_size: int = 8,
    seed: int = 0,
    tell: Callable[[int, float], None] = lambda epoch, dsc: None,
    teacher: Optional[Answers] = None,
) -> Promptable:
    """Train a network's mask decoder, float or quantized, in place; everything else stays as it is.

    Args:
        model: with the weights, and if quantized the scales, to start from.
        paths: of :func:`lessons`.
        loss: of the masks.
        optimizer: its schedule is the cosine, after the warm-up.
        epochs: rounds over all lessons; nothing is chosen, the last one is kept.
        batch_size: images a step.
        seed: of the order.
        tell: after every epoch, with the mean DSC of what was shown in it (against the teacher's masks where there is one).
        teacher: its soft masks and predicted IoU are the target, by cross entropy and squared error; ``loss`` weighs the two.
    """
    model.eval().requires_grad_(False)
    decoder = model.get_submodule("mask_decoder").train().requires_grad_(True)
    learner = make_optimizer(optimizer, decoder.parameters())
    rng, steps = np.random.default_rng(seed), -(-len(paths) // batch_size)
    warm = optimizer.warmup_epochs / epochs
    for epoch in range(epochs):
        scores: List[float] = []
        order = rng.permutation(len(paths))
        for number in range(steps):
            done = epoch + number / steps
            factor = cosine(done / epochs, warm) if done / epochs >= warm else warm_up(done, optimizer.warmup_epochs)
            for group in learner.param_groups:
                group["lr"] = optimizer.learning_rate * factor
            learner.zero_grad()
            chosen = order[number * batch_size : (number + 1) * batch_size]
            shown = [read_lesson(paths[n]) for n in chosen]
            masks = sum(len(lesson.boxes) for lesson in shown)
            for n, lesson in zip(chosen, shown):  # the sum of the gradients is the batch's, at the memory of one image
                logits, confidence = model.predict(lesson.embedding, lesson.boxes * model.prompt_scale)
                if teacher:
                    losses, dscs = _agreement(logits, confidence, lesson, teacher, teacher.paths[n], loss)
                else:
                    losses, dscs = prompt_loss(logits, confidence, lesson.masks, loss)
                (losses.sum() / masks).backward()
                scores += dscs.tolist()
            if optimizer.clip:
                torch.nn.utils.clip_grad_norm_(decoder.parameters(), optimizer.clip, error_if_nonfinite=True)
            learner.step()
        tell(epoch, float(np.mean(scores)))
    return model.eval()


def _agreement(
    logits: Tensor, confidence: Tensor, lesson: Lesson, teacher: Answers, path: Path, loss: LossConfig
) -> Tuple[Tensor, Tensor]:
    """Loss and DSC of every mask of a lesson, ``N`` each, against what the teacher answers to the same boxes."""
    theirs = read_lesson(path)
    assert torch.equal(theirs.boxes, lesson.boxes), f"{path} is another image's lesson"
    with torch.no_grad():
        answer, quality = teacher.model.predict(theirs.embedding, theirs.boxes * teacher.model.prompt_scale)
        dsc, _ = overlap(logits, (answer > 0).float())
    pixel = F.binary_cross_entropy_with_logits(logits, answer.sigmoid(), reduction="none").flatten(1).mean(1)
    return loss.pixel_weight * pixel + loss.iou_weight * F.mse_loss(confidence, quality, reduction="none"), dsc


def calibrated_decoder(model: Promptable, paths: Sequence[Path]) -> Promptable:
    """Initialise the activation scales of a quantized decoder from embeddings, in place; no weight moves."""
    shown = (read_lesson(path) for path in paths)
    with torch.no_grad():
        calibrated(model, ((one.embedding, one.boxes * model.prompt_scale) for one in shown), ["mask_decoder"], model.predict)
    return model


def embeddings(network: Network, held: Sequence[HeldOut], folder: Path) -> Iterator[np.ndarray]:
    """Of objects to score on, in their order; kept in a folder of their own."""
    make_folder(folder)
    for n, one in enumerate(held):
        path = folder / f"{n:05d}.npy"
        if not path.is_file():
            with writing(path) as partial, partial.open("wb") as stream:
                np.save(stream, np.asarray(network.encode(one.image.numpy())).astype(np.float16))
        yield np.load(path).astype(np.float32)


class Remembered(TorchNetwork):
    """A network that is asked about the images of known embeddings, in their order: only its decoder works.

    Args:
        model: whose decoder it is.
        input_size: of the images.
        encoded: of :func:`embeddings`.
    """

    def __init__(self, model: Promptable, input_size: int, encoded: Iterator[np.ndarray]) -> None:
        super().__init__(model, input_size)
        self.encoded = encoded

    def encode(self, image: np.ndarray) -> np.ndarray:
        """The next one."""
        return next(self.encoded)
