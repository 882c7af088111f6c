"""Cases on several worker processes of this machine. A worker that dies is replaced, and its case is tried once more."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO, Any, Callable, Dict, Generator, List, Mapping, Optional, Sequence, Tuple

from ..errors import QMedSAMError
from ..network.processor import available_cores
from .memory import in_words, resident
from .settings import FAILED, Case, Outcome

_ATTEMPTS = 2
#: Seconds between looks at the workers' memory and at ``cancelled``.
_LOOK = 0.2


def on_workers(
    cases: Sequence[Case],
    bench: Mapping[str, Any],
    workers: int,
    memory: Optional[int] = None,
    cancelled: Optional[Callable[[], bool]] = None,
) -> Generator[Tuple[int, Outcome], None, None]:
    """Do cases on worker processes.

    Args:
        cases: to do.
        bench: from :func:`~qmedsam.batch.one.bench_json`; its threads are those of one worker.
        workers: how many at most.
        memory: bytes a worker may hold; one that holds more is ended and its case fails.
        cancelled: asked all the time; the running cases are dropped then.

    Yields:
        Position in ``cases`` and outcome, as they come.

    Raises:
        QMedSAMError: workers cannot be started at all.
    """
    todo: queue.SimpleQueue = queue.SimpleQueue()
    for job in enumerate(cases):
        todo.put(job)
    results: queue.SimpleQueue = queue.SimpleQueue()
    crew = [_Worker(bench, memory) for _ in range(min(workers, len(cases)))]
    threads = [threading.Thread(target=_serve, args=(worker, todo, results), daemon=True) for worker in crew]
    try:
        for thread in threads:
            thread.start()
        missing = len(cases)
        while missing and not (cancelled and cancelled()):
            try:
                n, outcome = results.get(timeout=_LOOK)
            except queue.Empty:
                continue
            finally:
                for worker in crew:
                    worker.look()
            if isinstance(outcome, BaseException):
                raise outcome
            missing -= 1
            yield n, outcome
    finally:
        for worker in crew:
            worker.stop()
        for thread in threads:
            thread.join()


def _serve(worker: _Worker, todo: queue.SimpleQueue, results: queue.SimpleQueue) -> None:
    try:
        while not worker.stopped:
            try:
                n, case = todo.get_nowait()
            except queue.Empty:
                break
            outcome = worker.do(case)
            if outcome is not None:
                results.put((n, outcome))
    except BaseException as error:  # raised again where the outcomes are awaited
        results.put((-1, error))
    finally:
        worker.stop()


class _Worker:
    """A process, and the next one when it has died. ``do`` belongs to one thread, the rest to anybody."""

    def __init__(self, bench: Mapping[str, Any], memory: Optional[int]) -> None:
        self._bench, self._memory = bench, memory
        self._process: Optional[subprocess.Popen] = None
        self._errors: Optional[IO[bytes]] = None
        self._lock = threading.Lock()
        self._too_large = False
        self.stopped = False

    def do(self, case: Case) -> Optional[Outcome]:
        """The case's outcome; None when stopped meanwhile."""
        ends: List[str] = []
        for _ in range(_ATTEMPTS):
            process = self._started()
            if process is None:
                return None
            answer = _ask(process, case.to_json())
            if answer is not None:
                return Outcome.from_json(answer)
            ends.append(_how_it_ended(process.wait()))
            if self.stopped:
                return None
            if self._too_large:
                assert self._memory is not None
                message = f"It took more memory than the {in_words(self._memory)} of a worker, which was ended."
                return Outcome(case.name, FAILED, message=f"{message} Crop the volume, or allow more with --memory.")
        message = f"It ended its worker twice ({ends[-1]}). Is it damaged, or does the machine run out of memory?"
        return Outcome(case.name, FAILED, message=message)

    def look(self) -> None:
        """End the process when it holds too much memory."""
        process = self._process
        if self._memory and process is not None and process.poll() is None and (resident(process.pid) or 0) > self._memory:
            self._too_large = True
            process.kill()

    def stop(self) -> None:
        with self._lock:
            self.stopped = True
            if self._process is not None:
                self._process.kill()
                self._process.wait()
                for stream in (self._process.stdin, self._process.stdout, self._errors):
                    _close(stream)
                self._process = None

    def _started(self) -> Optional[subprocess.Popen]:
        with self._lock:
            if self.stopped:
                return None
            if self._process is None or self._process.poll() is not None:
                self._too_large = False
                self._errors = tempfile.TemporaryFile()  # noqa: SIM115
                self._process = subprocess.Popen(
                    _command(),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    env=_environment(self._bench["threads"]),
                )
                fresh = True
            else:
                fresh = False
            process = self._process
        if fresh and _ask(process, self._bench) is None and not self.stopped:
            process.wait()
            self._errors.seek(0)  # type: ignore[union-attr]
            said = self._errors.read().decode("utf-8", "replace").strip().splitlines()  # type: ignore[union-attr]
            raise QMedSAMError(f"A worker could not start ({said[-1] if said else _how_it_ended(process.returncode)}).")
        return process


def _ask(process: subprocess.Popen, values: Mapping[str, Any]) -> Optional[Dict[str, Any]]:
    """The answer to a line; None when the process has died over it."""
    try:
        process.stdin.write(json.dumps(values).encode() + b"\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        line = process.stdout.readline()  # type: ignore[union-attr]
        return json.loads(line) if line.endswith(b"\n") else None
    except (OSError, ValueError):  # ValueError: closed by ``stop``
        return None


def _close(stream: Optional[IO[bytes]]) -> None:
    try:
        if stream is not None:
            stream.close()
    except OSError:  # what was not sent yet cannot be sent any more
        pass


def _how_it_ended(code: Optional[int]) -> str:
    if code is not None and code < 0:
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"
    return f"exit code {code}"


def _command() -> List[str]:
    """Starts a worker. Inside Slicer's application ``sys.executable`` may be the application, which is no interpreter."""
    python = sys.executable
    if "python" not in Path(python).name.lower():
        python = shutil.which("PythonSlicer") or python
    return [python, "-m", f"{__package__}.worker"]


def _environment(threads: int) -> Dict[str, str]:
    engine = str(Path(__file__).resolve().parents[2])
    share = str(threads or available_cores())
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    paths = [engine, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {**os.environ, **dict.fromkeys(names, share), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
