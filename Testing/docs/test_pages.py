"""What pages state by hand is what the code does; pictures come from scripts; instructions and evidence lie apart."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from blocks import ROOT, pages
from qmedsam.files import FORMATS
from qmedsam.strategies import STRATEGIES, Options

DOCS = ROOT / "Docs"


def text_of(*parts: str) -> str:
    return DOCS.joinpath(*parts).read_text(encoding="utf-8")


def test_every_environment_variable_is_listed() -> None:
    sources = [path for room in ("QMedSAMSegment", "QMedSAMBatch", "Training") for path in (ROOT / room).rglob("*.py")]
    read = {name for path in sources for name in re.findall(r"\bQMEDSAM_[A-Z_]+\b", path.read_text(encoding="utf-8"))}
    assert read == set(re.findall(r"^\| `(QMEDSAM_[A-Z_]+)`", text_of("Reference", "Environment.md"), re.MULTILINE))


def test_every_format_that_is_written_is_listed() -> None:
    table = text_of("Reference", "Files.md").partition("## Segmentations out")[2]
    assert set(FORMATS.values()) == set(re.findall(r"`(\.[\w.]+)`", table))


def test_every_strategy_and_option_is_explained() -> None:
    text = text_of("Concepts", "Strategies.md")
    assert {f"| `{name}` |" for name in (*STRATEGIES, "auto")} <= set(re.findall(r"\| `\w+` \|", text))
    options = {name.replace("_", "-") for name in Options.__dataclass_fields__}
    assert options <= set(re.findall(r"`--([\w-]+)", text))


def test_pictures_of_the_gallery_come_from_scripts() -> None:
    """Under every picture stands its command; a script that is named exists, and names the picture or its folder."""
    text = text_of("Gallery.md")
    parts = re.split(r"!\[[^\]]*\]\(([^)]+)\)", text)[1:]
    before = ""
    for picture, after in zip(parts[::2], parts[1::2]):
        assert (DOCS / picture).is_file(), picture
        command = next(iter(re.findall(r"`((?:python|qmedsam) [^`]+)`", after)), before)
        if not command:
            heading = text[: text.index(picture)].rpartition("\n## ")[2]
            command = next(iter(re.findall(r"`((?:python|qmedsam) [^`]+)`", heading)), "")
        assert command, f"{picture} names no command"
        if command.startswith("python"):
            script = ROOT / command.split()[1]
            assert Path(picture).name in script.read_text(encoding="utf-8"), f"{command} does not write {picture}"


def test_evidence_holds_no_instructions_and_instructions_no_tables_of_scores() -> None:
    for page in (DOCS / "Evidence").rglob("*.md"):
        assert "```" not in page.read_text(encoding="utf-8"), f"{page} instructs"
    for part in ("HowTo", "GetStarted"):
        for page in (DOCS / part).glob("*.md"):
            header = re.findall(r"^\|.*\bDSC\b.*\|\n\|[-| ]+\|$", page.read_text(encoding="utf-8"), re.MULTILINE)
            assert not header, f"{page} measures"


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere_in_the_repository(page: Path) -> None:
    """As on GitHub: relative to the page's own folder."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target and not target.startswith("#"):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.relative_to(ROOT)}: {target}"


def test_links_of_programs_lead_to_pages() -> None:
    """The help of the module and of the command line module points into this repository."""
    for path in (
        "QMedSAMBatch/QMedSAMBatch.xml",
        "QMedSAMSegment/Resources/UI/QMedSAMSegment.ui",
        "QMedSAMSegment/QMedSAMSegment.py",
    ):
        for target in re.findall(r"SlicerQMedSAM/(?:blob|raw)/main/([\w./-]+)", (ROOT / path).read_text(encoding="utf-8")):
            assert (ROOT / target).is_file(), f"{path}: {target}"
