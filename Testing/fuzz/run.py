"""Fuzz a reader: ``python Testing/fuzz/run.py --reader dicom -n 10000``.

Every input is made from its number (``--seed`` and the number repeat it), written to a file and read in a process of its own.
A finding is: an exception that is no QMedSAMError, a sentence without a hint, too long or in ITK's words, the end of the process,
more than ``--seconds`` or ``--memory`` for an input, a warning, or text on the terminal. The exit code is 1 with findings.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from typing import Dict, List, Optional, Tuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parents[1] / "QMedSAMSegment"), str(HERE.parent / "engine")]

from mutate import mutated  # noqa: E402
from seeds import SEEDS  # noqa: E402
from targets import TARGETS  # noqa: E402

#: Longest sentence and hint, in letters; a path of the user's may be in it.
_LONGEST = 700
_FOREIGN = ("Traceback", "ITK ERROR", "0x", ".cxx", ".hxx", "sitk::", "/build", "numpy", "object at")


def fuzz(
    reader: str, count: int, seed: int = 0, seconds: float = 20, memory: int = 2 << 30, keep: Optional[Path] = None
) -> Tuple[List[Dict], int]:
    """Findings among ``count`` inputs of a reader, each with its number, kind and text; and how many inputs were read."""
    findings: List[Dict] = []
    read = 0
    start = 0
    while start < count:
        process = subprocess.Popen(
            [
                sys.executable,
                str(HERE / "run.py"),
                "--reader",
                reader,
                "-n",
                str(count),
                "--seed",
                str(seed),
                "--child",
                str(start),
            ]
            + ["--memory", str(memory), *(["--keep", str(keep)] if keep else [])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        noise: List[str] = []
        listener = threading.Thread(target=lambda p=process, n=noise: n.append(p.stderr.read()), daemon=True)
        listener.start()
        current, slow = start, threading.Event()
        # The first answer takes the imports with it.
        limit = [time.monotonic() + seconds + 30]

        def watch(p=process, limit=limit, slow=slow) -> None:
            while p.poll() is None:
                if time.monotonic() > limit[0]:
                    slow.set()
                    p.kill()
                time.sleep(0.2)

        threading.Thread(target=watch, daemon=True).start()
        for line in process.stdout:  # type: ignore[union-attr]
            try:
                values = json.loads(line)
            except ValueError:
                findings.append({"number": current, "kind": "text on the terminal", "text": line.strip()[-300:]})
                continue
            current = values["number"] + 1
            limit[0] = time.monotonic() + seconds
            read += values["read"]
            if values.get("kind"):
                findings.append(values)
        process.wait()
        listener.join(10)
        if current < count:
            kind = f"took more than {seconds:g} s" if slow.is_set() else f"ended the process ({process.returncode})"
            findings.append({"number": current, "kind": kind, "text": " ".join(noise)[-300:].strip()})
        elif "".join(noise).strip():
            findings.append({"number": -1, "kind": "text on the terminal", "text": "".join(noise).strip()[-300:]})
        start = current + 1
    return findings, read


def _child(reader: str, count: int, seed: int, start: int, memory: int, keep: Optional[Path]) -> None:
    from qmedsam.errors import QMedSAMError

    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (4 * memory, 4 * memory))
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10  # noqa: E731
    except ImportError:  # Windows
        peak = lambda: 0  # noqa: E731
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    suffixes, calls = TARGETS[reader]
    with tempfile.TemporaryDirectory() as scratch:
        seeds = SEEDS[reader](Path(scratch))
        for number in range(start, count):
            rng = random.Random(f"{reader}/{seed}/{number}")
            content = mutated(rng, seeds)
            folder = Path(scratch) / "work"
            folder.mkdir(exist_ok=True)
            path = folder / f"input{rng.choice(suffixes)}"
            path.write_bytes(content)
            before, found, read = peak(), None, False
            for call in calls:
                read = False
                try:
                    call(path)
                    read = True
                except QMedSAMError as error:
                    found = found or _complaint(error, scratch)
                except Exception as error:
                    found = found or {"kind": f"{call.__name__}: {type(error).__name__}", "text": f"{error} {_where(error)}"}
            if peak() - before > memory // 2 and peak() > memory:
                found = found or {"kind": "memory", "text": f"{peak() / 2**30:.1f} GiB"}
            if found and keep:
                keep.mkdir(parents=True, exist_ok=True)
                (keep / f"{reader}-{seed}-{number}{path.suffix}").write_bytes(content)
            path.unlink()
            _say(json.dumps({"number": number, "read": read, **(found or {})}))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _complaint(error, scratch: str) -> Optional[Dict]:
    text = str(error).replace(scratch, "FOLDER")
    if not error.message.rstrip("'").endswith((".", "…")) or not error.hint:
        return {"kind": "no sentence or no hint", "text": text[:300]}
    if len(text) > _LONGEST:
        return {"kind": "too long", "text": text[:300]}
    foreign = next((word for word in _FOREIGN if word in text), None)
    return {"kind": f"says '{foreign}'", "text": text[:300]} if foreign else None


def _where(error: BaseException) -> str:
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    return f"[{Path(last.tb_frame.f_code.co_filename).name}:{last.tb_lineno}]" if last else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reader", choices=[*TARGETS, "all"], default="all")
    parser.add_argument("-n", type=int, default=1000, help="inputs of each reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--memory", type=int, default=2 << 30, help="bytes")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that were findings")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child is not None:
        _child(given.reader, given.n, given.seed, given.child, given.memory, given.keep)
        return
    total = 0
    for reader in TARGETS if given.reader == "all" else [given.reader]:
        begun = time.monotonic()
        findings, read = fuzz(reader, given.n, given.seed, given.seconds, given.memory, given.keep)
        total += len(findings)
        _say(f"{reader}: {given.n} inputs, {read} of them read, {len(findings)} findings, {time.monotonic() - begun:.0f} s")
        for finding in findings[:20]:
            _say(f"    {finding['number']}: {finding['kind']}: {finding['text']}")
    sys.exit(int(total > 0))


if __name__ == "__main__":
    main()
