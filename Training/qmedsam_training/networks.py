"""Checkpoints that say what they are, and the network a stage starts from.

A checkpoint of ours holds ``model`` (the weights) and ``network`` (the fields of :class:`NetworkConfig`): architecture,
input size and which parts are quantized how. Nothing else is needed to load, export or go on training it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterable, List, Optional, Tuple, cast

import torch
from pydantic import ValidationError
from qmedsam import QMedSAMError
from qmedsam.files import writing
from torch import Tensor

from .architectures import ARCHITECTURES, build, names
from .architectures.compact import CompactSAM
from .architectures.promptable import Promptable
from .checkpoints import WEIGHTS_ALONE, check_finite, load_public
from .config import NetworkConfig, QuantizationConfig
from .quantization import Widths, calibrated, fold_batch_norms, quantize


def make(network: NetworkConfig) -> Promptable:
    """A network in its form, randomly initialised; a quantized one has no activation scales yet.

    Raises:
        QMedSAMError: unknown architecture, option or part.
    """
    if network.architecture not in ARCHITECTURES:
        raise QMedSAMError(f"There is no architecture '{network.architecture}'.", f"Known: {', '.join(names())}.")
    options = dict(network.options)
    if options.get("hints"):  # maps of the logits' resolution
        options.setdefault("input_size", network.side)
    try:
        model = build(network.architecture, **options)
    except Exception as error:  # widths that do not fit each other bring out anything
        raise QMedSAMError(f"{network.architecture} cannot be built with its options {network.options}.", f"{error}.") from error
    if network.options and network.input_size:
        _tried(model, network)
    if network.quantization:
        quantize_parts(model, network.quantization, network.quantization.parts)
    return model


@torch.no_grad()
def _tried(model: Promptable, network: NetworkConfig) -> None:
    """Whether a network of unusual options computes anything.

    Raises:
        QMedSAMError: it does not.
    """
    size = network.side
    try:
        boxes = torch.tensor([[0.2, 0.2, 0.8, 0.8]]) * size
        model.eval()(torch.zeros(1, 3, size, size), boxes, torch.zeros(1, dtype=torch.long))
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise QMedSAMError(
            f"{network.architecture} does not work with its options {network.options}.", f"Change them: {first}."
        ) from error
    finally:
        model.train()


def frame_kind(network: NetworkConfig) -> str:
    """``roi`` or ``slice``: what a network was trained and scored on, else what its architecture's public weights were."""
    return network.frame or ARCHITECTURES[network.architecture].frame["kind"]


def quantize_parts(model: Promptable, how: QuantizationConfig, parts: Iterable[str]) -> None:
    """Fold the batch normalisations of some parts and quantize their layers, in place.

    Raises:
        QMedSAMError: a part does not exist, or a name to skip keeps no layer of the quantized parts in float.
    """
    widths = Widths(how.weight_bits, how.activation_bits, how.per_channel, overflow=how.overflow)
    foreign = [name for name in how.skip if not _skipped_in(how.parts, [name])]
    if foreign:
        raise QMedSAMError(f"There is no layer '{foreign[0]}' to skip in {', '.join(how.parts)}.", "Its part leads its name.")
    for part in parts:
        skip = [name[len(part) + 1 :] for name in _skipped_in([part], how.skip)]
        try:
            quantize(fold_batch_norms(child(model, part)), skip, widths)
        except ValueError as error:
            raise QMedSAMError(f"There is no layer to skip: {error}", "See the names in the checkpoint.") from error


def child(model: torch.nn.Module, name: str) -> torch.nn.Module:
    """A part by name.

    Raises:
        QMedSAMError: the network has no such part.
    """
    parts = dict(model.named_children())
    if name not in parts:
        raise QMedSAMError(f"The network has no part '{name}'.", f"It has {', '.join(parts)}.")
    return parts[name]


def save(path: Path, model: torch.nn.Module, network: NetworkConfig, **facts: Any) -> None:
    """Write a checkpoint beside and rename: a kill or a full disk leaves the previous one. The folder is made.

    Raises:
        QMedSAMError: it cannot be written.
    """
    make_folder(path.parent)
    fields = NetworkConfig.model_validate({name: getattr(network, name) for name in NetworkConfig.model_fields})
    content = {"model": model.state_dict(), "network": fields.model_dump(mode="json"), **facts}
    with writing(path) as partial:
        torch.save(content, partial)


def make_folder(folder: Path) -> None:
    """With what is above it.

    Raises:
        QMedSAMError: a file has its name, or it may not be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = "is a file" if folder.is_file() else error.strerror
        raise QMedSAMError(f"The folder '{folder}' cannot be made ({what}).", "Give another folder (-o).") from error


def load(path: Path) -> Tuple[Promptable, NetworkConfig]:
    """The network of a checkpoint of ours, in evaluation mode. Never runs code of the file.

    Raises:
        QMedSAMError: not a checkpoint of ours, or one that does not fit its own description.
    """
    network, state = _described(path)
    if network is None:
        raise QMedSAMError(
            f"'{Path(path).name}' does not say which network it is of.", "Import public checkpoints with import-checkpoint."
        )
    model = make(network)
    _fill(model, state, path)
    return model.eval(), network


def compact_of(checkpoint: Path) -> Tuple[CompactSAM, NetworkConfig]:
    """The float compact network of a checkpoint, in evaluation mode.

    Raises:
        QMedSAMError: it is another one, or quantized already.
    """
    model, network = load(checkpoint)
    if not isinstance(model, CompactSAM) or network.quantization:
        raise QMedSAMError(f"'{checkpoint.name}' is no float checkpoint of qmedsam-compact.", "Others are not trained this way.")
    return model.float().eval(), network


def start(network: NetworkConfig, init: Optional[Path]) -> Tuple[Promptable, Tuple[str, ...]]:
    """The network that a stage starts from, and which of its parts are newly quantized and need calibration.

    Args:
        network: what the stage trains.
        init: checkpoint of ours (float, or with some parts quantized already), a public one, or None for random weights.

    Raises:
        QMedSAMError: the checkpoint is of another network.
    """
    wanted = network.quantization
    if init is None:
        model, done = make(network.model_copy(update={"quantization": None})), []
    else:
        described, state = _described(init)
        before = described.quantization if described else None
        if described and described.architecture != network.architecture:
            raise QMedSAMError(
                f"'{Path(init).name}' is not a {network.architecture} checkpoint, but one of {described.architecture}.",
                "Choose its architecture.",
            )
        if described and described.model_dump(mode="json")["options"] != network.model_dump(mode="json")["options"]:
            raise QMedSAMError(
                f"'{Path(init).name}' holds {described.architecture} with other options than the stage's.", "Choose its own."
            )
        if before and not (wanted and set(before.parts) <= set(wanted.parts) and _alike(before, wanted)):
            raise QMedSAMError(
                f"'{Path(init).name}' is quantized in another way than the stage.", "Start from a float checkpoint."
            )
        model = make(network.model_copy(update={"quantization": before}))
        if described:
            _fill(model, state, init)
        else:
            load_public(model, init)
        done = before.parts if before else []
    new = tuple(part for part in (wanted.parts if wanted else []) if part not in done)
    if wanted:
        quantize_parts(model, wanted, new)
    return model, new


def post_training_quantized(
    checkpoint: Path, how: QuantizationConfig, samples: Iterable[Tuple[Tensor, ...]]
) -> Tuple[Promptable, NetworkConfig]:
    """A float checkpoint of ours, quantized with calibrated scales and untouched weights.

    Args:
        checkpoint: of a float stage.
        how: to quantize.
        samples: see :func:`~qmedsam_training.quantization.calibrated`.

    Raises:
        QMedSAMError: the checkpoint is quantized already or not ours.
    """
    model, network = load(checkpoint)
    if network.quantization:
        raise QMedSAMError(f"'{Path(checkpoint).name}' is quantized already.", "Give the float checkpoint.")
    quantize_parts(model, how, how.parts)
    return cast(Promptable, calibrated(model, samples)), network.model_copy(update={"quantization": how})


def _alike(before: QuantizationConfig, now: QuantizationConfig) -> bool:
    """Whether the parts that were quantized before still would be in the same way."""
    first, second = (
        (how.weight_bits, how.activation_bits, how.per_channel, how.overflow, sorted(_skipped_in(before.parts, how.skip)))
        for how in (before, now)
    )
    return first == second


def _skipped_in(parts: Iterable[str], skip: Iterable[str]) -> List[str]:
    return [name for name in skip if name.startswith(tuple(part + "." for part in parts))]


def _described(path: Path) -> Tuple[Optional[NetworkConfig], dict]:
    """Description and weights of a checkpoint of ours; (None, {}) for any other, which :func:`load_public` judges."""
    if not Path(path).is_file():
        raise QMedSAMError(f"There is no checkpoint '{path}'.", "Give it with --init, or correct the configuration.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a foreign file brings out anything
        raise QMedSAMError(f"'{Path(path).name}' could not be read as a checkpoint of weights alone.", WEIGHTS_ALONE) from error
    if not isinstance(content, dict) or "network" not in content:
        return None, {}
    try:
        return NetworkConfig.model_validate(content["network"]), content["model"]
    except (ValidationError, KeyError) as error:
        raise QMedSAMError(f"'{Path(path).name}' describes its network in a way that is not ours.", WEIGHTS_ALONE) from error


def _fill(model: torch.nn.Module, state: dict, path: Path) -> None:
    check_finite(state, path)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise QMedSAMError(
            f"'{Path(path).name}' does not fit its own description.", str(error).strip().splitlines()[-1].strip()[:160]
        ) from error
