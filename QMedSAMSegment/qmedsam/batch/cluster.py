"""Cases on a Dask cluster that is there already. Dask itself is only needed here (``pip install 'qmedsam[cluster]'``)."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Generator, Mapping, Optional, Sequence, Tuple

from .. import __version__
from ..errors import QMedSAMError
from .one import Bench
from .settings import FAILED, Case, Outcome

#: Seconds between looks at ``cancelled``, and for finding the scheduler.
_LOOK, _CONNECT = 0.5, 15

#: Of this process, when it is a Dask worker: its networks stay loaded from task to task.
_benches: Dict[str, Bench] = {}
_one_at_a_time = threading.Lock()


def on_cluster(
    cases: Sequence[Case],
    bench: Mapping[str, Any],
    scheduler: str,
    cancelled: Optional[Callable[[], bool]] = None,
) -> Generator[Tuple[int, Outcome], None, None]:
    """Do cases on the workers of a Dask scheduler, a task each; tasks of workers that die are run elsewhere by Dask.

    Args:
        cases: to do; their paths must mean the same files on every worker.
        bench: from :func:`~qmedsam.batch.one.bench_json`; 0 threads are as many as the Dask worker has.
        scheduler: its address, ``tcp://host:8786``, or the path of a scheduler file (``.json``).
        cancelled: asked all the time; waiting tasks are dropped then, running ones end unheard.

    Yields:
        Position in ``cases`` and outcome, as they come.

    Raises:
        QMedSAMError: Dask is not installed, the scheduler does not answer or goes away, or its workers have another
            version of QMedSAM, or do not see the run's folder.
    """
    client = _connected(scheduler)
    from distributed import wait

    try:
        _check_workers(client, str(bench["folder"]))

        def submitted(n: int) -> Any:
            return client.submit(_do, dict(bench), cases[n].to_json(), pure=False)

        futures = {submitted(n): n for n in range(len(cases))}
        again = set()
        while futures and not (cancelled and cancelled()):
            try:
                with client.as_current():
                    finished = wait(list(futures), timeout=_LOOK, return_when="FIRST_COMPLETED").done
            except (TimeoutError, asyncio.TimeoutError):  # one and the same only from Python 3.11 on
                continue
            for future in finished:
                n = futures.pop(future)
                if future.status in ("cancelled", "lost") and client.status == "running" and n not in again:
                    again.add(n)  # what a worker had said went with it, before it was asked for
                    futures[submitted(n)] = n
                    continue
                yield n, _outcome(future, cases[n].name)
                future.release()
        client.cancel(list(futures))
    finally:
        client.close(timeout=5)


def _outcome(future: Any, name: str) -> Outcome:
    if future.status == "finished":
        return Outcome.from_json(future.result())
    if future.status == "error":
        error = future.exception()
        if type(error).__name__ == "KilledWorker":
            message = "It ended several workers of the cluster. Is it damaged, or do they run out of memory?"
        else:
            message = f"{type(error).__name__}: {error}"
        return Outcome(name, FAILED, message=message)
    raise QMedSAMError("The Dask scheduler went away.", "Run the same command again: what is done stays done.")


def _connected(scheduler: str) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise QMedSAMError(
            "Dask, which --scheduler needs, is not installed.", "Install it with: python -m pip install 'qmedsam[cluster]'"
        ) from error
    by_file = Path(scheduler).suffix == ".json"
    where = {"scheduler_file": scheduler} if by_file else {"address": scheduler}
    try:
        if by_file and not Path(scheduler).is_file():
            raise FileNotFoundError  # Dask would wait for it without end
        return Client(timeout=_CONNECT, set_as_default=False, **where)
    except Exception as error:  # OSError, TimeoutError, ValueError, and what the transport layers add
        raise QMedSAMError(
            f"There is no Dask scheduler at '{scheduler}'.", "Give its address as it prints it, e.g. tcp://host:8786."
        ) from error


def _check_workers(client: Any, folder: str) -> None:
    try:
        answers = client.run(_about, folder)
    except Exception as error:
        raise QMedSAMError(
            f"The workers of the cluster cannot use QMedSAM ({type(error).__name__}: {error}).",
            "Install the same version there as here.",
        ) from error
    for worker, (version, sees) in answers.items():
        if version != __version__:
            raise QMedSAMError(f"The worker {worker} has QMedSAM {version}, here is {__version__}.", "Install the same on both.")
        if not sees:
            raise QMedSAMError(
                f"The worker {worker} does not see the folder '{folder}'.", "Use a file system that all of them share."
            )


def _about(folder: str) -> Tuple[str, bool]:
    return __version__, Path(folder).is_dir()


def _do(bench: Dict[str, Any], case: Dict[str, Any]) -> Dict[str, Any]:
    """A task. Threads of the same worker take turns: a case uses all of them."""
    from distributed import get_worker

    worker = get_worker()
    bench["threads"] = bench["threads"] or worker.state.nthreads
    bench["memory"] = bench["memory"] or worker.memory_manager.memory_limit
    with _one_at_a_time:
        key = json.dumps(bench, sort_keys=True)
        if key not in _benches:
            _benches.clear()  # of another run
            _benches[key] = Bench.from_json(bench)
        return _benches[key].do(Case.from_json(case)).to_json()
