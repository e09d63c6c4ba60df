"""Where results came from, for a report's foot: the last start in the workdir's provenance.json."""

from pathlib import Path

from cxr_jax.io.json import read_json

_FILE = "provenance.json"


def rows(workdir: Path) -> dict[str, str]:
    """What -> value; empty where no such file is kept. Raises ValueError for a damaged one."""
    path = workdir / _FILE
    if not path.is_file():
        return {}
    held = read_json(path)
    try:
        starts = list(held["starts"])
        last = starts[-1]
        found = {
            "code": _code(last["code"]),
            "versions": ", ".join(f"{name} {found}" for name, found in last["packages"].items()),
            "machine": f"{last['machine']['processor']}; {last['machine']['devices']}",
            "images, as marked": ", ".join(
                f"{split} {mark or 'unknown'}" for split, mark in last["dataset"].items()
            ),
        }
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{path} is damaged; move it away to report without it") from error
    if len(starts) > 1:
        found["starts"] = f"{len(starts)} that differ; this is the last ({_FILE} has all)"
    return found


def _code(code: dict) -> str:
    if "commit" not in code:
        return f"cxr_jax {code['version']}, sources {code['sources']}"
    changes = " with changes that are not committed" if code["changed"] else ""
    return f"cxr_jax {code['version']}, commit {code['commit'][:12]}{changes}"
