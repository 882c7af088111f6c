"""Code blocks of the README, of CONTRIBUTING and of the site's pages run as they stand; what does not says why."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from blocks import ROOT, RUN, Block, Runner, blocks_of, changes_of, pages
from examples import write_examples

pytest.importorskip("pydicom")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="the pages' commands are for a POSIX shell")]
PAGES = [page for page in pages() if any(block.language in RUN for block in blocks_of(page))]
#: Pages whose examples change the sources: they run in a copy of them.
ON_A_COPY = ("CONTRIBUTING.md",)


def _id(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From top to bottom, in one folder with the example files."""
    mine = [block for block in blocks_of(page) if block.mark is None and (block.language in RUN or block.title)]
    if not mine:
        pytest.skip("nothing that runs here")
    if page.name in ON_A_COPY:
        files = subprocess.check_output(["git", "ls-files", "QMedSAMSegment", "Resources", "Testing/engine"], cwd=ROOT, text=True)
        for name in files.splitlines():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    else:
        write_examples(tmp_path)
    runner = Runner(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", runner.environment["XDG_DATA_HOME"])
    for block in mine:
        runner.run(block)


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_what_does_not_run_says_why(page: Path) -> None:
    """And what another test runs is named in that test."""
    for block in blocks_of(page):
        if block.mark == "not run":
            assert len(block.what.split()) >= 3, f"{block.place} does not say why it is not run"
        if block.mark == "run by":
            test = ROOT / block.what
            assert test.is_file() and page.name in test.read_text(encoding="utf-8"), (
                f"{block.place}: {block.what} does not run it"
            )


def test_a_block_that_fails_is_found(tmp_path: Path) -> None:
    """The runner itself: a shell, one namespace, files, changes."""
    runner = Runner(tmp_path)
    runner.run(Block("a:1", "text", "x = 1\ny = 2\n", "some.txt", None, ""))
    runner.run(Block("a:2", "diff", "--- a/some.txt\n+++ b/some.txt\n@@\n x = 1\n-y = 2\n+y = 3\n", None, None, ""))
    assert (tmp_path / "some.txt").read_text() == "x = 1\ny = 3\n"
    runner.run(Block("a:3", "python", "seven = 7\n", None, None, ""))
    runner.run(Block("a:4", "python", "assert seven == 7\n", None, None, ""))
    runner.run(Block("a:5", "sh", "python -c 'import qmedsam' && test -f some.txt\n", None, None, ""))
    for block in (
        Block("b:1", "sh", "qmedsam segment nothing.nii.gz --box 1,2,3,4,5,6 -o x.seg.nrrd\necho\n", None, None, ""),
        Block("b:2", "python", "assert seven == 8\n", None, None, ""),
        Block("b:3", "diff", "--- a/some.txt\n+++ b/some.txt\n@@\n-y = 2\n+y = 3\n", None, None, ""),
    ):
        with pytest.raises(AssertionError, match=block.place):
            runner.run(block)
    assert changes_of(Block("", "diff", "+++ b/f\n@@\n-a\n+b\n@@\n c\n", None, None, "")) == [
        ("f", "a\n", "b\n"),
        ("f", "c\n", "c\n"),
    ]
