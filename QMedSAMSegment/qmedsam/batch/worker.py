"""A worker process: ``python -m qmedsam.batch.worker`` reads cases from its standard input and answers with outcomes.

Lines of JSON: the first tells how to work (:func:`~qmedsam.batch.one.bench_json`), each further one is a case; the answers
are ``{"ready": true}`` and then an outcome per case. It ends with its input, so it does not outlive who started it.
"""

from __future__ import annotations

import json
import os
import signal
import sys

from .priority import raise_priority


def main() -> None:
    raise_priority()  # before any library starts its threads
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C reaches the whole terminal; who started us ends us
    answers = os.fdopen(os.dup(1), "w", encoding="ascii", newline="\n")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    from .one import Bench
    from .settings import Case

    cases = sys.stdin
    bench = Bench.from_json(json.loads(cases.readline()))
    answers.write('{"ready": true}\n')
    answers.flush()
    for line in cases:
        outcome = bench.do(Case.from_json(json.loads(line)))
        answers.write(json.dumps(outcome.to_json()) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
