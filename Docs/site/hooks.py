"""What mkdocs calls: pages made from code, and pages that lie beside their code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import commands
import fields
import links
import rooms
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]

#: Pages that lie elsewhere in the repository, where GitHub and the programs expect them.
ELSEWHERE = {
    "Training.md": ROOT / "Training" / "README.md",
    "Changelog.md": ROOT / "CHANGELOG.md",
    "Contributing.md": ROOT / "CONTRIBUTING.md",
    "ModelCard.md": ROOT / "Resources" / "Models" / "qmedsam-compact" / "MODEL_CARD.md",
    "VolumeCard.md": ROOT / "Resources" / "Models" / "qmedsam-volume" / "MODEL_CARD.md",
}
DECISIONS = "Decisions"


def on_config(config: Any) -> Any:
    """The menu's entries that follow from the files: decisions, commands, rooms."""
    menu = {next(iter(entry)): next(iter(entry.values())) for entry in config.nav if isinstance(entry, dict)}
    menu["Reference"] += [
        {"Commands": [{program: f"Reference/{program}.md"} for program in commands.PROGRAMS]},
        {"Slicer module QMedSAM Batch": "Reference/slicer-module.md"},
        {"Training configuration": "Reference/training-configuration.md"},
        {"Model manifest": "Reference/manifest.md"},
        {"Python": ["Reference/python.md", *({room: f"Reference/{room}.md"} for room in rooms.rooms())]},
    ]
    menu["Project"] += [{"Decisions": [f"{DECISIONS}/{path.name}" for path in sorted((ROOT / "Docs" / DECISIONS).glob("*.md"))]}]
    return config


def generated() -> Dict[str, str]:
    """Every page that is made from code, by its place."""
    made = {f"Reference/{program}.md": commands.page_of(program) for program in commands.PROGRAMS}
    made["Reference/slicer-module.md"] = fields.slicer_page()
    made["Reference/training-configuration.md"] = fields.training_page()
    made["Reference/manifest.md"] = fields.manifest_page()
    made["Reference/python.md"] = rooms.public_page()
    made.update({f"Reference/{room}.md": rooms.page_of(room, modules) for room, modules in rooms.rooms().items()})
    return made


def on_files(files: Any, config: Any) -> Any:
    for place, text in generated().items():
        files.append(File.generated(config, place, content=text))
    for place, path in ELSEWHERE.items():
        files.append(File.generated(config, place, content=path.read_text(encoding="utf-8")))
    _copied(ROOT / "QMedSAMSegment" / "Resources" / "Icons" / "QMedSAMSegment.png", files, config)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    docs = Path(config.docs_dir)
    place = page.file.src_uri
    pages = {docs / file.src_uri: file.src_uri for file in files.documentation_pages()}
    pages.update({path: uri for uri, path in ELSEWHERE.items()})
    source = ELSEWHERE.get(place, docs / place)
    text = links.on_the_site(markdown, place, source, pages, lambda path: _copied(path, files, config))
    return links.marks_shown(text)


def _copied(path: Path, files: Any, config: Any) -> str:
    """Make a file of the repository part of the site."""
    docs = Path(config.docs_dir)
    place = path.relative_to(docs).as_posix() if docs in path.parents else f"assets/{path.relative_to(ROOT).as_posix()}"
    if files.get_file_from_path(place) is None:
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return place
