"""What ``--dry-run`` says that a stage takes, beside what a run of it takes at its peak.

    python Testing/benchmarks/training_memory.py [STAGE ...]

Every shipped kind of stage learns from generated pictures and clips, with its own network at its own size, LiteMedSAM's from
random weights and in batches of two, MedSAM as its teacher too. Minutes per stage on one core.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Dict

import numpy as np
import SimpleITK as sitk
import yaml
from qmedsam_training.config import TrainConfig
from qmedsam_training.rehearsal import rehearse

CONFIGS = Path(__file__).resolve().parents[2] / "Training" / "configs"
CHECKPOINT = CONFIGS.parent / "checkpoints" / "compact-160.pt"
MIB = 2**20
#: Trains what it reads, and tells the peaks of the process and of what its workers have for themselves, in bytes.
RUN = """
import json, sys, tempfile, threading, time
from contextlib import suppress
from pathlib import Path
import psutil
from qmedsam_training.config import TrainConfig
from qmedsam_training.rehearsal import peak
from qmedsam_training.train import run
own, over, steps = [0], threading.Event(), []
def look():
    while not over.wait(0.5):
        with suppress(psutil.Error):
            own.append(sum(p.memory_full_info().uss for p in psutil.Process().children(recursive=True)))
threading.Thread(target=look, daemon=True).start()
with tempfile.TemporaryDirectory() as folder:
    run(TrainConfig.model_validate_json(sys.stdin.read()), Path(folder), lambda share, text: steps.append(share))
over.set()
sys.stdout.write(json.dumps([peak(), max(own), len(steps)]))
"""


def made(root: Path) -> Dict[str, Path]:
    """Ten pictures with a manifest, and eighteen packed volumes in the challenge's layout."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:512, :512]
    rows = ["case_id,modality,dim,source,split,patient_id,path_image,path_mask"]
    mask = (((x - 250) / 90) ** 2 + ((y - 260) / 70) ** 2 <= 1).astype(np.uint8)
    for n in range(10):
        image = np.clip(rng.normal(60, 12, mask.shape) + 50 * mask, 0, 255).astype(np.uint8)
        sitk.WriteImage(sitk.GetImageFromArray(image), str(root / f"{n}.png"))
        sitk.WriteImage(sitk.GetImageFromArray(mask), str(root / f"{n}_mask.png"))
        rows.append(f"c{n},CT,2D,made,train,p{n},{n}.png,{n}_mask.png")
    (root / "cases.csv").write_text("\n".join(rows) + "\n")
    labels = np.repeat(mask[None, ::2, ::2], 8, 0)
    for modality in ("CT", "MR", "US"):
        (root / "challenge" / modality / "set").mkdir(parents=True)
        for n in range(6):
            images = np.clip(rng.normal(60, 12, labels.shape) + 50 * labels, 0, 255).astype(np.uint8)
            path = root / "challenge" / modality / "set" / f"{modality}_{n}.npz"
            np.savez_compressed(path, imgs=images, gts=labels, spacing=[1.0, 1.0, 4.0])
    return {"manifest": root / "cases.csv", "challenge": root / "challenge"}


def stage(name: str, data: Dict[str, Path]) -> TrainConfig:
    """A shipped configuration over the generated data, short."""
    values = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    lite = name.startswith("litemedsam")
    kind = "challenge" if lite else "manifest"
    values["data"] = {k: v for k, v in values["data"].items() if k not in ("manifest", "challenge", "folders")}
    values["data"].update({kind: str(data[kind]), "held_out_per_group": 1, "workers": 1})
    values.update(threads=1, epochs=1, minutes=None, statistics_images=24)
    if lite:
        values.update(init=None, batch_size=2, minutes=0.5)
        values["data"].update(held_out=0.2, held_out_least=2)
        values.get("teacher", {}).update(checkpoint=None)
    else:
        values.update(init=str(CHECKPOINT))
        values["data"].update(samples_per_epoch=4 * values["batch_size"], held_out=0)
    values.get("quantization", {}).update(calibration_images=8)
    return TrainConfig.model_validate(values)


def main() -> None:
    """Print the table."""
    known = ["compact-128", "compact-160-near", "compact-qat"]
    known += ["litemedsam-stage1", "litemedsam-stage2", "litemedsam-stage3", "litemedsam-finetune"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("stages", nargs="*", default=known)
    with tempfile.TemporaryDirectory() as folder:
        data = made(Path(folder))
        sys.stdout.write("| stage | batch | dry run | peak of a run | ratio |\n|---|---|---|---|---|\n")
        for name in parser.parse_args().stages:
            config = stage(name, data)
            said = rehearse(config)
            done = subprocess.run(
                [sys.executable, "-c", RUN], input=config.model_dump_json(), capture_output=True, text=True, check=True
            )
            process, workers, _ = json.loads(done.stdout.strip().splitlines()[-1])
            taken = process + workers
            row = (name, config.batch_size, f"{said.memory / MIB:,.0f}", f"{taken / MIB:,.0f}", f"{said.memory / taken:.2f}")
            sys.stdout.write("| " + " | ".join(map(str, row)) + " |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
