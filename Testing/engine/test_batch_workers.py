"""Worker processes and a Dask cluster with the shipped model: the same voxels, and no case is lost whoever dies."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
from qmedsam import QMedSAMError
from qmedsam.batch import Case, Outcome, Settings, collect, pool, run_batch
from qmedsam.batch.cluster import on_cluster
from qmedsam.batch.one import bench_json
from qmedsam.files import read_labels

pytest.importorskip("SimpleITK")
pytest.importorskip("openvino")

from cohort import BAD, write_case, write_cohort

pytestmark = pytest.mark.slow  # processes of their own
ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
SETTINGS = Settings(modality="MR", pictures=False)

#: Starts a worker in which something happens to a case, told by its name.
ACCIDENTS = """
import os, signal, sys, time
from pathlib import Path
from qmedsam.batch import one
from qmedsam.files import writing

write, do = one.write_segmentation, one.Bench.do

def write_segmentation(path, *arguments):
    once = Path({marks!r}) / path.name
    if path.name.startswith("unlucky") and not once.exists():
        once.touch()
        with writing(path) as beside:
            beside.write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    write(path, *arguments)

def accident(self, case, cancelled=None):
    if case.name == "deadly":
        os.kill(os.getpid(), signal.SIGSEGV)
    if case.name == "greedy":
        block = b"x" * 2**30
        time.sleep(60)
    return do(self, case, cancelled)

one.write_segmentation, one.Bench.do = write_segmentation, accident
from qmedsam.batch.worker import main
main()
"""


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "in"
    write_cohort(folder)
    return folder


@pytest.fixture(scope="module")
def alone(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cohort, done in one process."""
    out = tmp_path_factory.mktemp("alone") / "out"
    assert run_batch(collect([cohort], out), out, SETTINGS, threads=1).exit_code == 1
    return out


def _voxels(out: Path) -> dict:
    return {p.relative_to(out).as_posix(): read_labels(p) for p in sorted(out.rglob("*.seg.nrrd"))}


def _assert_same_voxels(out: Path, alone: Path) -> None:
    mine, expected = _voxels(out), _voxels(alone)
    assert list(mine) == list(expected) and len(mine) >= 4
    for name, labels in expected.items():
        assert labels.any() and np.array_equal(mine[name], labels), name


@pytest.fixture
def accidents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "worker.py"
    (tmp_path / "marks").mkdir()
    script.write_text(ACCIDENTS.format(marks=str(tmp_path / "marks")))
    monkeypatch.setattr(pool, "_command", lambda: [sys.executable, str(script)])


def test_two_workers_give_the_same_voxels_and_load_the_model_once(cohort: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run_batch(collect([cohort], out), out, SETTINGS, workers=2)
    assert {o.case for o in result.failed} == set(BAD) and result.exit_code == 1
    assert all(BAD[o.case] in o.message for o in result.failed)
    _assert_same_voxels(out, alone)
    done = [o for o in result.outcomes if o.state == "done"]
    workers = {o.worker for o in done}
    assert len(workers) <= 2 and not any(worker.endswith(f":{os.getpid()}") for worker in workers)
    loads = sorted((o.stages["load"] for o in done), reverse=True)
    models = {o.model for o in done}
    assert all(seconds < 0.01 for seconds in loads[len(workers) * len(models) :]), "one load a worker and model"
    again = run_batch(collect([cohort], out), out, SETTINGS, workers=2)
    assert sorted({o.state for o in again.outcomes}) == ["failed", "unchanged"]


def test_the_number_of_threads_changes_no_voxel(cohort: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_batch(collect([cohort], out), out, SETTINGS, threads=2)
    _assert_same_voxels(out, alone)


def test_a_worker_that_is_killed_loses_no_case(accidents: None, tmp_path: Path) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    for n, name in enumerate(["good", "unlucky", "deadly", "greedy", "last"]):
        write_case(folder, name, n)
    result = run_batch(collect([folder], out), out, SETTINGS, workers=2, memory=900 * 2**20)
    states = {o.case: o.state for o in result.outcomes}
    assert states == {"good": "done", "unlucky": "done", "deadly": "failed", "greedy": "failed", "last": "done"}
    messages = {o.case: o.message for o in result.failed}
    assert "ended its worker twice (SIGSEGV)" in messages["deadly"]
    assert "more memory than the 900 MiB of a worker" in messages["greedy"]
    assert (tmp_path / "marks" / "unlucky.seg.nrrd").exists() and read_labels(out / "unlucky.seg.nrrd").any()
    assert not [p for p in out.rglob(".qmedsam-*") if p.is_dir()], "half of a file is left"


def test_workers_that_cannot_start_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_case(tmp_path / "in", "ct")
    monkeypatch.setattr(pool, "_command", lambda: [sys.executable, "-c", "raise ImportError('no such engine')"])
    with pytest.raises(QMedSAMError, match=r"could not start .*no such engine"):
        run_batch(collect([tmp_path / "in"], tmp_path / "out"), tmp_path / "out", SETTINGS, workers=1)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("typer")
    from qmedsam.commands import app as cli

    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["qmedsam", "batch", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        printed = capsys.readouterr()
        return end.value.code, " ".join((printed.out + printed.err).split())

    write_case(tmp_path / "in", "a [bold]b")
    options = (tmp_path / "in", "-o", tmp_path / "out", "--workers", 0, "--modality", "MR", "--no-pictures")
    code, text = run(*options, "--window", "400,40", "--strategy", "fixed", "--every", 2)
    assert code == 0 and "a [bold]b" in text and "1 done in" in text
    log = json.loads((tmp_path / "out" / "batch.jsonl").read_text().splitlines()[0])["settings"]
    assert (log["window"], log["strategy"], log["options"]["every"]) == ([400, 40], "fixed", 2)
    (tmp_path / "in" / "c.nii.gz").write_bytes(b"damaged")
    code, text = run(*options, "--window", "400,40", "--strategy", "fixed", "--every", 2)
    assert code == 1 and "There are no boxes for 'c.nii.gz'" in text and "1 unchanged, 1 failed" in text
    for wrong, word in (("--memory=much", "no size"), ("--format=docx", "no format"), ("--window=wide", "not a window")):
        code, text = run(*options, wrong)
        assert code == 2 and re.search(word, text), text
    code, text = run(tmp_path / "nowhere", "-o", tmp_path / "out")
    assert code == 2 and "nothing at" in text


def test_a_callers_stop_ends_the_workers(tmp_path: Path) -> None:
    for n in range(3):
        write_case(tmp_path / "in", f"c{n}", n)
    heard: list = []
    result = run_batch(
        collect([tmp_path / "in"], tmp_path / "out"),
        tmp_path / "out",
        SETTINGS,
        workers=1,
        report=heard.append,
        cancelled=lambda: bool(heard),
    )
    assert result.exit_code == 130 and [o.state for o in result.outcomes] == ["done", "not run", "not run"]
    assert not _alive(int(heard[0].worker.rsplit(":", 1)[1]))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("workers,number", [("1", signal.SIGINT), ("0", signal.SIGTERM)])
def test_ctrl_c_ends_a_run_cleanly(tmp_path: Path, workers: str, number: int) -> None:
    pytest.importorskip("typer")
    out = tmp_path / "out"
    for n in range(40):
        write_case(tmp_path / "in", f"c{n:02}", n)
    command = [sys.executable, "-m", "qmedsam", "batch", str(tmp_path / "in"), "-o", str(out), "--workers", workers, "--json"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "XDG_DATA_HOME": str(tmp_path)}
    process = subprocess.Popen(
        [*command, "--no-pictures", "--modality", "MR"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    lines = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert [line["event"] for line in lines] == ["start", "case", "case"] and lines[1]["state"] == "done"
    os.killpg(process.pid, number)  # as a terminal does: the workers hear it too
    rest, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said, said
    end = json.loads(rest.splitlines()[-1])
    assert end["event"] == "end" and end["cancelled"] and Path(end["report"]).is_file()
    done = len(list(out.glob("*.seg.nrrd")))
    assert 2 <= done < 40 and not [p for p in out.rglob(".qmedsam-*") if p.is_dir()]
    assert (out / "summary.csv").read_text().count("not run") == 40 - done


def test_a_dask_cluster_gives_the_same_voxels_and_survives_a_worker(cohort: Path, alone: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    out, heard = tmp_path / "out", []
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:

        def kill_its_worker(outcome) -> None:
            if outcome.state == "done" and not heard:
                heard.append(outcome)
                os.kill(int(outcome.worker.rsplit(":", 1)[1]), signal.SIGKILL)

        cases = collect([cohort], out)
        result = run_batch(cases, out, SETTINGS, scheduler=cluster.scheduler_address, report=kill_its_worker)
        assert heard and {o.case for o in result.failed} == set(BAD)
        assert all(BAD[o.case] in o.message for o in result.failed)
        _assert_same_voxels(out, alone)
        assert len({o.worker for o in result.outcomes if o.state == "done"}) >= 2
        again = run_batch(cases, out, SETTINGS, scheduler=cluster.scheduler_address)
        assert sorted({o.state for o in again.outcomes}) == ["failed", "unchanged"]


def test_waiting_for_a_cluster_goes_on_before_python_311(monkeypatch: pytest.MonkeyPatch) -> None:
    """What Dask raises when nothing has finished in time was no builtin TimeoutError then."""

    class OldTimeout(Exception):
        pass

    waits: list = []

    def wait(futures, **_):
        waits.append(futures)
        if len(waits) < 3:
            raise OldTimeout
        return SimpleNamespace(done=futures)

    future = MagicMock(status="finished", result=Outcome("ct", "done").to_json)
    client = MagicMock()
    client.run.return_value, client.submit.return_value = {}, future
    monkeypatch.setattr(asyncio, "TimeoutError", OldTimeout)
    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace(wait=wait, Client=lambda **_: client))
    case = Case("ct", Path("ct.nii.gz"), Path("ct.seg.nrrd"))
    answers = list(on_cluster([case], bench_json(SETTINGS, Path(), 1, None), "tcp://host:8786"))
    assert [(n, outcome.state) for n, outcome in answers] == [(0, "done")] and len(waits) == 3


def test_a_scheduler_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_case(tmp_path / "in", "ct")
    cases = collect([tmp_path / "in"], tmp_path / "out")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(QMedSAMError, match=r"Dask.*not installed.*qmedsam\[cluster\]"):
        run_batch(cases, tmp_path / "out", SETTINGS, scheduler="tcp://localhost:1")
    monkeypatch.undo()
    pytest.importorskip("distributed")
    monkeypatch.setattr("qmedsam.batch.cluster._CONNECT", 1)
    for address in ("tcp://localhost:1", "nonsense", str(tmp_path / "nothing.json")):
        with pytest.raises(QMedSAMError, match="no Dask scheduler"):
            run_batch(cases, tmp_path / "out", SETTINGS, scheduler=address)


@pytest.mark.skipif(not (DATA / "manifest.csv").is_file(), reason="the shared data are not here")
def test_real_cases(tmp_path: Path) -> None:
    """Two real volumes and two pictures of the shared data, their masks giving the boxes."""
    import csv

    with (DATA / "manifest.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "validation"]
    chosen = {}
    for row in sorted(rows, key=lambda row: (DATA / row["path_image"]).stat().st_size):
        chosen.setdefault(row["modality"], row)
    wanted = [row for row in chosen.values() if row["modality"] in ("CT", "MR", "Endoscopy", "XRay")]
    table = tmp_path / "real.csv"
    with table.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["case_id", "modality", "path_image", "path_mask"], extrasaction="ignore")
        writer.writeheader()
        for row in wanted:
            writer.writerow({**row, "path_image": DATA / row["path_image"], "path_mask": DATA / row["path_mask"]})
    out = tmp_path / "out"
    result = run_batch(collect([table], out), out, replace(SETTINGS, modality="auto", pictures=True), workers=1)
    assert len(result.outcomes) >= 3 and not result.failed and result.exit_code == 0
    assert all(o.voxels > 0 and Path(o.output).is_file() for o in result.outcomes)
