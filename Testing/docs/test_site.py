"""The site builds offline without a warning, and loads nothing from a server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")
ROOT = Path(__file__).resolve().parents[2]
#: What a page may load; links that a reader follows are his own.
LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*?\bsrc=\"([^\"]*)\"|<link\b[^>]*?\brel=\"(?:stylesheet|icon|preload)\"[^>]*?\bhref=\"([^\"]*)\""
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; ``strict`` in mkdocs.yml makes a warning an error."""
    folder = tmp_path_factory.mktemp("site")
    # A proxy that is not there: whatever asked a server would fail.
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    paths = os.pathsep.join(str(ROOT / name) for name in ("QMedSAMSegment", "Training"))
    done = subprocess.run(
        # Not --quiet: warnings that are not logged are not counted either, and strict lets them pass.
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, **nowhere, "PYTHONPATH": paths, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "WARNING" not in said and "Building documentation" in said, said
    return folder


def test_every_page_is_there_and_loads_nothing_from_a_server(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 50
    for page in pages:
        text = page.read_text(encoding="utf-8")
        loaded = ["".join(match) for match in LOADED.findall(text)]
        assert loaded and not [place for place in loaded if "//" in place], page
        for place in loaded:
            path = place.split("?")[0].split("#")[0]
            if page.name != "404.html" and not path.startswith("data:"):  # that one is served from anywhere
                assert (page.parent / path).is_file(), f"{page}: {place}"


def test_the_reference_is_made_from_the_code(site: Path) -> None:
    def words(page: str) -> str:
        return re.sub(r"<[^>]+>", "", (site / "Reference" / f"{page}.html").read_text(encoding="utf-8"))

    assert "qmedsam segment [OPTIONS]" in words("qmedsam") and "--least-iou" in words("qmedsam")
    assert "qmedsam models add" in words("qmedsam") and "qmedsam-train export" in words("qmedsam-train")
    assert "samples_per_epoch" in words("training-configuration") and "normalization.kind" in words("manifest")
    assert "outputSegmentation" in words("slicer-module")
    assert "encode" in words("network") and "Frames and units" in words("geometry") and "CT_WINDOWS" in words("intensity")


def test_every_room_of_the_engine_has_a_page(site: Path) -> None:
    engine = ROOT / "QMedSAMSegment" / "qmedsam"
    rooms = {path.stem for path in engine.iterdir() if (path / "__init__.py").is_file() or path.suffix == ".py"}
    rooms -= {"__init__", "__main__", "commands", "__pycache__"}  # what commands do is said by --help
    assert rooms <= {path.stem for path in (site / "Reference").glob("*.html")}
