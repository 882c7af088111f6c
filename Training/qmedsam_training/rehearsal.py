"""One real step of a run in a process of its own, for what it takes: memory at its peak, and seconds.

Nothing is estimated that can be measured: the process loads the data, starts its workers, and learns from two batches (the
second has the optimizer's moments) with the code that trains, teacher included. Only what fills later is added: caches.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, cast

from qmedsam import QMedSAMError

from .config import TrainConfig

if TYPE_CHECKING:
    from .architectures.promptable import Promptable

#: Held-out objects that are scored for their time.
_SCORED = 2


@dataclass(frozen=True)
class Measured:
    """What one process of a run takes.

    Attributes:
        process, workers, device: bytes at their peak: the process (interpreter, data and network), what its workers have for
            themselves, and the GPU's memory.
        caches: bytes that the caches of workers (or of the process, without any) still grow by.
        step, scoring: seconds of a batch, drawing included, and of scoring all held-out objects once.
    """

    process: int
    workers: int
    device: int
    caches: int
    step: float
    scoring: float

    @property
    def memory(self) -> int:
        """Bytes of the machine's memory, at the peak."""
        return self.process + self.workers + self.caches


def rehearse(config: TrainConfig) -> Measured:
    """Measure a configuration, in a process of its own.

    Raises:
        QMedSAMError: it cannot be run, or does not fit into the memory of this machine.
    """
    command = [sys.executable, "-m", "qmedsam_training.rehearsal"]
    given = config.model_dump_json()
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        told = json.loads(done.stdout.strip().splitlines()[-1])
        if "error" in told:
            raise QMedSAMError(*told["error"])
        return Measured(**told)
    if done.returncode < 0 or "out of memory" in done.stderr.lower() or "MemoryError" in done.stderr:
        raise QMedSAMError("One step does not fit into the memory of this machine.", "Lower batch_size, or the teacher.")
    raise QMedSAMError(
        "One step of this configuration failed.", (done.stderr.strip().splitlines() or ["Without a word."])[-1][:300]
    )


def measure(config: TrainConfig) -> Measured:
    """The same, in this process, which should be new: its peak so far counts."""
    import torch

    from .averaging import reestimated
    from .data import fixed_batches, make_loader
    from .evaluation import TorchNetwork, score
    from .train import launched
    from .trainer import Trainer

    share = config.batch_size // (config.devices * config.nodes)
    changes: Dict[str, Any] = {"devices": 1, "nodes": 1, "batch_size": max(share, 1), "tensorboard": False}
    if config.quantization:
        changes["quantization"] = config.quantization.model_copy(update={"calibration_images": 8})
    config = config.model_copy(update=changes)
    with tempfile.TemporaryDirectory() as folder:
        fabric = launched(config)
        torch.manual_seed(config.seed)
        trainer = Trainer(config, fabric, Path(folder))
        growth = trainer.source.to_come(config.data.workers > 0)
        workers = config.data.workers
        drawing = _seconds(lambda: [trainer.source.sample(int(key), _rng(key)) for key in trainer.source.epoch(0)[:4]]) / 4
        batches = iter(fabric.setup_dataloaders(make_loader(trainer.plan, workers), use_distributed_sampler=False))
        learning = 0.0
        for _ in range(min(2, trainer.plan.batches)):
            batch: Any = next(batches)
            learning = _seconds(partial(trainer._learn, batch))
        own = _workers_own()
        few = trainer.held[:_SCORED]
        network = TorchNetwork(cast("Promptable", trainer.averaged.module), config.side)
        scoring = _seconds(lambda: score(network, few, with_nsd=False)) / max(len(few), 1) * len(trainer.held)
        if trainer.norms:
            images = min(config.batch_size, config.statistics_images)

            def once() -> None:
                reestimated(trainer.averaged.module, trainer.norms, lambda: fixed_batches(trainer.source, 0, images, images))

            scoring += _seconds(once) * config.statistics_images / images
        trainer.checkpoint()
        device = torch.cuda.max_memory_allocated(fabric.device) if fabric.device.type == "cuda" else 0
        drawing *= config.batch_size
        step = max(learning, drawing / workers) if workers else learning + drawing
        return Measured(peak(), own, device, growth * max(workers, 1), step, scoring)


def peak() -> int:
    """Bytes of memory that this process has had at most."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource  # macOS: bytes

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _workers_own() -> int:
    """Bytes that child processes do not share with this one."""
    import psutil

    return sum(child.memory_full_info().uss for child in psutil.Process().children(recursive=True))


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _rng(key: int) -> Any:
    import numpy as np

    return np.random.default_rng(int(key))


def _main() -> None:
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # if memory runs out, this process goes and no other
    try:
        told = asdict(measure(TrainConfig.model_validate_json(sys.stdin.read())))
    except QMedSAMError as error:
        told = {"error": [error.message, error.hint]}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    _main()
