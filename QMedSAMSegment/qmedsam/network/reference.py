"""A model's reference answer: what its network should say to a stored input, to compare a machine's own answer with.

It was computed by the network that was exported, before any runtime: kernels that saturate, or a graph that is compiled wrongly,
show here and nowhere else. It lies in the model folder and is listed with its checksum in the manifest.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional, Tuple

import numpy as np

from ..errors import QMedSAMError
from ..models import Model

#: Values compared of the embedding, evenly spread, and pixels of every mask's side.
_EMBEDDING, _SIDE = 4096, 32
_FIELDS = ("image", "scale", "offset", "boxes", "embedding", "logits")


@dataclass(frozen=True)
class Deviation:
    """How far an answer is from the reference: root of the mean square of the differences, in deviations of the reference.

    Attributes:
        embedding, logits: the deviations.
        most_embedding, most_logits: what the manifest allows: what rounding in another order makes of this network, several
            times over.
    """

    embedding: float
    logits: float
    most_embedding: float
    most_logits: float

    @property
    def too_far(self) -> bool:
        """Something else than rounding differs; also when the answer is not finite."""
        return not (self.embedding <= self.most_embedding and self.logits <= self.most_logits)

    def __str__(self) -> str:
        return (
            f"embedding {self.embedding:.2%} (at most {self.most_embedding:.2%}), "
            f"masks {self.logits:.2%} (at most {self.most_logits:.2%})"
        )


@dataclass(frozen=True)
class Reference:
    """A stored input and its answer.

    Attributes:
        image: ``3 x S x S`` float32, normalised.
        boxes_uv: ``N x 4`` in network pixels.
        embedding, logits: samples of the answer, see :func:`samples`.
        most: largest deviations of both.
    """

    image: np.ndarray
    boxes_uv: np.ndarray
    embedding: np.ndarray
    logits: np.ndarray
    most: Tuple[float, float]

    @classmethod
    def of(cls, model: Model) -> Optional[Reference]:
        """A model's, whose checksums were compared; None if it carries none.

        Raises:
            QMedSAMError: the file is not what the manifest says.
        """
        said = model.manifest.reference
        if not said:
            return None
        try:
            with np.load(model.folder / said["file"], allow_pickle=False) as content:
                image, scale, offset, boxes, embedding, logits = (content[name] for name in _FIELDS)
        except (OSError, ValueError, KeyError, EOFError) as error:
            raise QMedSAMError(
                f"The reference answer of the model '{model.name}' cannot be read.", "Add the model again from its source."
            ) from error
        shown = enlarged(image, model.manifest.input_size) * np.float32(scale) + np.float32(offset)
        return cls(shown.astype(np.float32), boxes, embedding, logits, (said["embedding"], said["logits"]))

    def compared(self, embedding: np.ndarray, logits: np.ndarray) -> Deviation:
        """An answer (whole tensors) with this one."""
        embedding_there, logits_there = samples(embedding, logits)
        return Deviation(deviation(embedding_there, self.embedding), deviation(logits_there, self.logits), *self.most)


def enlarged(image: np.ndarray, size: int) -> np.ndarray:
    """``3 x n x n`` to ``3 x S x S``, pixels repeated: the same numbers on every machine."""
    index = np.arange(size) * image.shape[-1] // size
    return image[:, index][:, :, index]


def samples(embedding: np.ndarray, logits: np.ndarray) -> Tuple[np.ndarray, np.ndarray]:
    """What is stored and compared of an embedding, and of logits ``N (x C) x m x m``: evenly spread values."""
    flat = embedding.ravel()
    chosen = np.linspace(0, flat.size - 1, min(_EMBEDDING, flat.size)).astype(int)
    index = np.arange(_SIDE) * logits.shape[-1] // _SIDE
    return flat[chosen].astype(np.float32), logits.reshape(-1, *logits.shape[-2:])[:, index][:, :, index].astype(np.float32)


def write(path: Path, image: np.ndarray, scale: float, offset: float, boxes_uv: np.ndarray, answer: Tuple[Any, Any]) -> None:
    """Store an input (``3 x n x n`` uint8; its values times ``scale`` plus ``offset`` are the network's) and its answer."""
    embedding, logits = samples(*answer)
    content: Dict[str, Any] = {"image": image, "scale": np.float32(scale), "offset": np.float32(offset)}
    np.savez_compressed(path, boxes=np.asarray(boxes_uv, np.float32), embedding=embedding, logits=logits, **content)


def deviation(found: np.ndarray, expected: np.ndarray) -> float:
    """Root of the mean square of the differences, in standard deviations of what is expected; infinite for other shapes."""
    if found.shape != expected.shape:
        return float("inf")
    return float(np.sqrt(np.mean((found - expected) ** 2)) / max(float(expected.std()), 1e-9))
