"""Says what a config's fields mean, read where the code says it: for --help and docs/.

A field is described in one place. Those of an experiment itself (configs/common.py, or its own
file): by the comment above or behind it. Those of a section that a module reads: by the table in
one of the module's docstrings under "Fields of config.SECTION:", a row each. Of a section with
several readers, as config.objective, the file config.objective.name and __init__.py count.
tests/test_configs.py fails where a field has no description.
"""

import ast
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from cxr_jax import config as config_file

_PACKAGE = Path(__file__).parent
_HEADER = re.compile(r"\bFields of (config\.[^\"]{0,150}?)(?: as of (\w+)\.py|:\n)")
_SECTION = re.compile(r"config\.([\w*]+(?:\.[\w*]+)*)")
PRESET = re.compile(r"^:(\w+) +(.*(?:\n +.*)*)", re.MULTILINE)  # of a config's head
_COLUMN, _WIDTH = 40, 100


class Row(NamedTuple):
    """A field: its dotted name, its value, what it means, its value without the preset if other."""

    name: str
    value: str
    words: str
    default: str = ""


class _Table(NamedTuple):
    reader: str  # the module's name
    section: str
    rows: dict[str, str]
    like: str  # the module whose rows count as well


def sections(spec: str, config: ConfigDict) -> dict[str, list[Row]]:
    """Returns the fields of the config of FILE[:PRESET] by section; "" is the config itself.

    Behind those of a section come, with the value "", what else it may have.
    """
    path, _, preset = spec.partition(":")
    plain = dict(config_file.flat(config_file.load(path, []).to_dict())) if preset else {}
    meanings = _meanings(config, config_file.find(path))
    fields = dict(config_file.flat(config.to_dict()))
    found: dict[str, list[Row]] = {}
    for name in sorted(fields, key=lambda name: (name.startswith("transfer."), "." in name)):
        value = repr(fields[name])
        default = repr(plain[name]) if plain.get(name, fields[name]) != fields[name] else ""
        row = Row(name, value, _meaning(name, meanings).removesuffix("."), default)
        found.setdefault(name.rpartition(".")[0], []).append(row)
    for name, words in meanings.items():
        has = any(field == name or field.startswith(f"{name}.") for field in fields)
        if not has and (section := name.rpartition(".")[0]) in found and section:
            found[section].append(Row(name, "", words))
    return found


def of_sections(spec: str, config: ConfigDict) -> dict[str, str]:
    """Returns what each section is for, by its dotted name; "" where the code does not say."""
    meanings = _meanings(config, config_file.find(spec.partition(":")[0]))
    return {name: _meaning(name, meanings) for name in sections(spec, config)}


def help_text(spec: str, config: ConfigDict) -> str:
    """Returns what `--config=FILE[:PRESET] --help` prints: the file's head, and the fields."""
    path, _, preset = spec.partition(":")
    lines = [head(config_file.find(path)), "", f"Fields of {spec}, as --config.FIELD=VALUE:"]
    about = of_sections(spec, config)
    first: dict[tuple[str, str], str] = {}
    for section, rows in sections(spec, config).items():
        title = f"{section or 'the run'}: {about[section]}".removesuffix(" ")
        lines += ["", *textwrap.wrap(title, _WIDTH, subsequent_indent="  ")]
        for row in rows:
            if not row.value:
                continue  # no command line can add it
            where = first.setdefault((row.name.rpartition(".")[2], row.words), section)
            words = row.words if where == section else f"as of {where or 'the run'}"
            words += f" ({row.default} without :{preset})" if row.default else ""
            lines += _lines(f"  --config.{row.name}={row.value}", words)
    return "\n".join(lines)


def head(path: Path) -> str:
    """Returns what a config file says of itself: command, cost, presets, what to expect."""
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def presets(path: Path) -> dict[str, str]:
    """Returns the presets that a config's head lists, with what it says of them."""
    found = PRESET.findall(head(path))
    return {name: " ".join(words.split()) for name, words in found}


def _lines(field: str, words: str) -> list[str]:
    """Returns a field with its meaning beside it, or below where there is no room."""
    beside = len(field) < _COLUMN and field.ljust(_COLUMN)
    wrapped = textwrap.wrap(words.strip(), _WIDTH - _COLUMN) or [""]
    lines = [" " * _COLUMN + line for line in wrapped if line]
    return [(beside + wrapped[0]).rstrip(), *lines[1:]] if beside else [field, *lines]


def _meanings(config: ConfigDict, path: Path) -> dict[str, str]:
    """Returns what fields mean by their dotted names, in which * may be a part."""
    if "transfer" in config:
        inner = _meanings(config.transfer, path)
        outer = config.to_dict()
        del outer["transfer"]
        more = {f"transfer.{name}": words for name, words in inner.items()}
        return _meanings(ConfigDict(outer), path) | more
    commented = _commented(config_file.find("configs/common.py")) | _commented(path)
    return commented.get(config.experiment, {}) | _tabled(config)


def _meaning(name: str, meanings: Mapping[str, str]) -> str:
    if name in meanings:
        return meanings[name]
    return next((words for one, words in meanings.items() if fnmatchcase(name, one)), "")


def _tabled(config: ConfigDict) -> dict[str, str]:
    """Returns the rows of all tables that count for this config, by dotted name."""
    found = {}
    named = {
        name.rpartition(".")[0]: str(value)
        for name, value in config_file.flat(config.to_dict())
        if name.endswith(".name")
    }
    tables = _tables()
    for section, choice in named.items():
        readers = {table.reader for table in tables if table.section == section}
        like = {
            table.like for table in tables if (table.reader, table.section) == (choice, section)
        }
        if choice in readers:
            keep = {choice, "__init__", *like}
            tables = [one for one in tables if one.section != section or one.reader in keep]
    for table in tables:
        rows = table.rows.items()
        found |= {f"{table.section}.{name}": words for name, words in rows if words}
    return found


@cache
def _tables() -> list[_Table]:
    found = []
    for path in sorted(_PACKAGE.rglob("*.py")):
        text = path.read_text()
        for header in _HEADER.finditer(text) if path.name != Path(__file__).name else ():
            reader = "__init__" if path.stem == "__init__" else path.stem
            rows = {} if header[2] else _read(text[header.end() :])
            for section in _SECTION.findall(header[1]):
                found.append(_Table(reader, section, rows, header[2] or ""))
    return found


def _read(text: str) -> dict[str, str]:
    """Reads a table: its lines up to the first blank one.

    >>> _read('a, b  two\\n      lines\\nc\\n      below\\n\\nno more')
    {'a': 'two lines', 'b': 'two lines', 'c': 'below'}
    """
    block = re.split(r'\n[ \t]*\n|"""', text.lstrip("\n"))[0]
    rows: dict[str, str] = {}
    names: list[str] = []
    for line in textwrap.dedent(block).splitlines():
        if row := re.match(r"([\w.*]+(?:, [\w.*]+)*)(?::? |$)", line):
            names, line = row[1].split(", "), line[row.end() :]
            rows |= dict.fromkeys(names, "")
        rows |= {name: f"{rows[name]} {line.strip()}".strip() for name in names}
    return rows


@cache
def _commented(path: Path) -> dict[str, dict[str, str]]:
    """Returns the comments on the fields of a file's experiments: experiment -> name -> words."""
    text = path.read_text()
    behind, alone = {}, {}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            kind = alone if token.line.lstrip().startswith("#") else behind
            kind[token.start[0]] = token.string.lstrip("# ")

    def walk(call: ast.Call, prefix: str) -> Iterator[tuple[str, str]]:
        for field in call.keywords:
            line, words = field.lineno - 1, []
            while line in alone:
                words.insert(0, alone[line])
                line -= 1
            words.append(behind.get(field.value.end_lineno, ""))
            yield f"{prefix}{field.arg}", " ".join(words).strip().removesuffix(".")
            if isinstance(field.value, ast.Call):
                yield from walk(field.value, f"{prefix}{field.arg}.")

    found = {}
    for node in ast.walk(ast.parse(text)):
        for field in node.keywords if isinstance(node, ast.Call) else ():
            if field.arg == "experiment" and isinstance(field.value, ast.Constant):
                found[field.value.value] = dict(walk(node, ""))
    return found
