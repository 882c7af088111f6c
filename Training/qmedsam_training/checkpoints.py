"""Public checkpoints into our architectures, strictly by name, without running anything that a file may carry."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, Dict, Iterable

import torch
from qmedsam import QMedSAMError
from torch import Tensor, nn

#: What to do about a file that is none.
WEIGHTS_ALONE = "Give the file of its training, or save its state_dict with torch.save."
#: Under which training scripts put the weights.
_WRAPPERS = ("model", "state_dict", "model_state_dict")


def load_public(model: nn.Module, path: Path) -> None:
    """Load a checkpoint, in place.

    Args:
        model: of the checkpoint's architecture, with the public names.
        path: ``.pth`` / ``.pt``; a state dict, bare or under a usual key, its names perhaps behind ``module.``.

    Raises:
        QMedSAMError: not a checkpoint, or names or shapes that do not fit, each said.
    """
    path = Path(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise QMedSAMError(f"'{path.name}' could not be read as a checkpoint of weights alone.", WEIGHTS_ALONE) from error
    state = _state_of(content, path)
    wanted = model.state_dict()
    missing, foreign = wanted.keys() - state.keys(), state.keys() - wanted.keys()
    if missing or foreign:
        raise QMedSAMError(
            f"'{path.name}' does not fit the architecture: missing {_named(missing)}; foreign {_named(foreign)}.",
            "Choose the architecture that the checkpoint was made with.",
        )
    wrong = [
        f"{k} has the shape {tuple(state[k].shape)}, not {tuple(v.shape)}" for k, v in wanted.items() if state[k].shape != v.shape
    ]
    if wrong:
        raise QMedSAMError(f"'{path.name}' does not fit: {wrong[0]} (and {len(wrong) - 1} more).", "Choose its architecture.")
    model.load_state_dict(state)


def _state_of(content: Any, path: Path) -> Dict[str, Tensor]:
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise QMedSAMError(f"'{path.name}' is not a checkpoint of weights.", "It must hold a state_dict.")
    return {name[len("module.") :] if name.startswith("module.") else name: value for name, value in content.items()}


def _named(names: Iterable[str]) -> str:
    names = sorted(names)
    return (", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")) or "nothing"
