"""Makes the pages of the site that the code already says: mkdocs.yml runs this in every build.

index.md is README.md; datasets/NAME.md is made of a builder, its README and citations;
reference/NAME.md of a config's fields, as `--help` has them. Links that lead out of docs/ go to the
page that shows the same, or are left as words.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from cxr_jax import config as config_file
from cxr_jax import config_fields
from cxr_jax.data.tasks import Task, as_stored
from data_builders import build
from data_builders.base import build_command

_ROOT = Path(__file__).parents[1]
_MINIATURE = (
    "The contact sheet, here of the miniature that the tests build: the owner's layout, labels and "
    "splits with patterns in place of images, which may not be shown."
)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the pages of this file into the navigation, behind the page of their subject."""
    pages = {
        "datasets.md": [f"datasets/{name}.md" for name in build.builder_names()],
        "configs.md": [f"reference/{name}.md" for name in _config_names()],
    }
    for group in config.nav:
        for name, entries in group.items():
            if isinstance(entries, list):
                group[name] = [
                    page for entry in entries for page in (entry, *pages.get(_target(entry), ()))
                ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages."""
    pages = {"index.md": (_ROOT / "README.md").read_text()}
    pages |= {f"datasets/{name}.md": _dataset(name) for name in build.builder_names()}
    pages |= {f"reference/{name}.md": _config(name) for name in _config_names()}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links round that are right in the clone and lead out of the site."""
    source = page.file.src_uri
    folder = "" if source == "index.md" else posixpath.join("docs", posixpath.dirname(source))

    def link(found: re.Match) -> str:
        picture, words, target = found.groups()
        path, mark, anchor = target.partition("#")
        if not path or "://" in path or target.startswith("mailto:"):
            return found[0]
        place = posixpath.normpath(posixpath.join(folder, path))
        place = place.removeprefix("docs/") if place.startswith("docs/") else f"../{place}"
        place = re.sub(r"^\.\./data_builders/(\w+)$", r"datasets/\1.md", place)
        place = place.replace("../README.md", "index.md")
        if files.get_file_from_path(place):
            here = posixpath.relpath(place, posixpath.dirname(source) or ".")
            return f"{picture}[{words}]({here}{mark}{anchor})"
        outside = (_ROOT / "docs" / place).exists()  # code, or a folder
        return words if outside and not picture else found[0]

    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    return "".join(
        part if part.startswith("```") else _LINK.sub(link, _four_spaces(part)) for part in parts
    )


def _four_spaces(markdown: str) -> str:
    """Indents what belongs to "1. " by four spaces, not three, which this Markdown asks for."""
    lines, within = [], False
    for line in markdown.split("\n"):
        starts = bool(re.match(r"\d+\. ", line))
        within = starts or (within and (not line or line.startswith("   ")))
        lines.append(f" {line}" if within and line and not starts else line)
    return "\n".join(lines)


def _target(entry: object) -> str:
    return next(iter(entry.values())) if isinstance(entry, dict) else str(entry)


def _config_names() -> list[str]:
    return sorted(
        path.stem for path in (_ROOT / "configs").glob("[!_]*.py") if path.stem != "common"
    )


def _dataset(name: str) -> str:
    builder = build.builder_class(name)
    # Some say these of the built part or config alone.
    labels = builder.LABEL_NAMES if isinstance(builder.LABEL_NAMES, tuple) else ()
    counts = builder.OWNER_COUNTS if isinstance(builder.OWNER_COUNTS, dict) else {}
    also = [
        what
        for field, what in (
            ("HAS_BOXES", "boxes"),
            ("MASK_NAMES", "masks"),
            ("HAS_REPORTS", "reports"),
        )
        if getattr(builder, field, False)
    ]
    facts = {
        "Licence": builder.LICENCE,
        "Homepage": builder.HOMEPAGE and f"<{builder.HOMEPAGE}>",
        "Labels": ", ".join(labels),
        "Beside them": ", ".join(also),
        "A patient is": f"{builder.PATIENT}. {builder.PATIENT_NOTE}".rstrip(),
        "Splits": builder.SPLIT_RULE,
        "Owner's counts": ", ".join(f"{n:,} {what}" for what, n in counts.items()),
        "Sizes": ", ".join(f"`{config.name}`" for config in builder.BUILDER_CONFIGS or ()),
    }
    tasks = {"default": Task(as_stored(labels))} | dict(builder.TASKS)
    own = {**builder.INPUTS, **builder.OPTIONS}
    folder = _ROOT / "data_builders" / name
    lines = [f"# {name}", "", f"{build_command.what(builder)}.", ""]
    if (_ROOT / f"docs/results/{name}_contact_sheet.png").exists():
        lines += [f"![Some of its images](../results/{name}_contact_sheet.png)", ""]
    elif name == "phantom":
        lines += ["![Some of its images](../gallery/contact_sheet.webp)", ""]
    first, *others = [(key, value) for key, value in facts.items() if value]
    lines += _table(first, others)
    if labels:
        rows = [(_asked(title), _labels(task), _read(task)) for title, task in tasks.items()]
        lines += ["", "## Tasks", "", *_table(("task", "labels", "read with"), rows)]
    if own:
        rows = [(f"`--{option}`", words) for option, words in own.items()]
        lines += ["", "## Options of its build", "", *_table(("option", "what"), rows)]
    lines += ["", "## Files, layout, splits", "", (folder / "README.md").read_text()]
    if (_ROOT / f"docs/sheets/{name}.webp").exists():
        lines += [
            "",
            "## What a build ends with",
            "",
            _MINIATURE,
            "",
            f"![](../sheets/{name}.webp)",
        ]
    lines += ["", "## To cite", "", "```bibtex", (folder / "CITATIONS.bib").read_text(), "```", ""]
    return "\n".join(lines)


def _asked(title: str) -> str:
    return "default" if title == "default" else f"`--config.task={title}`"


def _labels(task: Task) -> str:
    return ", ".join(
        label if label == stored else f"{label} ({stored})" for label, stored in task.labels.items()
    )


def _read(task: Task) -> str:
    plain = Task(task.labels)._asdict()
    changed = {name: value for name, value in task._asdict().items() if value != plain[name]}
    said = {
        name: ",".join(value) if name == "projections" else value for name, value in changed.items()
    }
    return ", ".join(f"`{name}={value}`" for name, value in said.items()) or "plain"


def _config(name: str) -> str:
    file = f"configs/{name}.py"
    config = config_file.load(file, [])
    head, *rest = _docstring(file).split("\n\n", 1)
    said = config_fields.PRESET.sub("", "".join(rest)).strip()  # a table says more of presets
    lines = [f"# {file}", "", head, "", "```text", said, "```", ""]
    if presets := config_fields.presets(_ROOT / file):
        rows = [
            (f"`:{preset}`", words, _changed(file, preset)) for preset, words in presets.items()
        ]
        lines += ["## Presets", "", *_table(("preset", "", "what it changes"), rows), ""]
    lines += [
        "## Fields",
        "",
        "Each as `--config.FIELD=VALUE`, behind a dash what is optional and not in this config.",
        "",
    ]
    about = config_fields.of_sections(file, config)
    for section, rows in config_fields.sections(file, config).items():
        cells = [
            (f"`{row.name}`", f"`{row.value}`" if row.value else "–", row.words) for row in rows
        ]
        lines += [
            f"### {section or 'the run'}",
            "",
            *((f"{about[section]}.", "") if about[section] else ()),
            *_table(("field", "default", "meaning"), cells),
            "",
        ]
    return "\n".join(lines)


def _changed(file: str, preset: str) -> str:
    """Returns the fields that a preset changes; what it changes in all views is said once."""
    found = config_fields.sections(f"{file}:{preset}", config_file.load(f"{file}:{preset}", []))
    rows = [row for rows in found.values() for row in rows if row.default]
    named = [(re.sub(r"^views\.\w+\.", "views.*.", row.name), row.value) for row in rows]
    return ", ".join(f"`{name}={value}`" for name, value in dict.fromkeys(named))


def _docstring(file: str) -> str:
    return config_fields.head(_ROOT / file)


def _table(header: tuple[str, ...], rows: list[tuple]) -> list[str]:
    cells = [header, ("---",) * len(header), *rows]
    return ["| " + " | ".join(_cell(str(cell)) for cell in row) + " |" for row in cells]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
