"""Damaged files are read right, skipped and listed, or refused: none is lost, and nobody dies."""

import collections
import os
import time
from pathlib import Path

import pytest

from tests.faults import fuzz, readers

FEW, MANY = 40, 10_000


@pytest.fixture(scope="module")
def outcomes(full):
    count, workers = (MANY, 2) if full else (FEW, 1)
    by_kind = collections.defaultdict(list)
    for outcome in fuzz.run(readers.KINDS, count, seed=0, workers=workers):
        by_kind[outcome.kind].append(outcome)
    return count, by_kind


@pytest.mark.parametrize("kind", readers.KINDS)
def test_no_input_is_lost(outcomes, kind):
    count, by_kind = outcomes
    of_kind = by_kind[kind]
    lost = [outcome for outcome in of_kind if outcome.what in fuzz.LOST]
    assert not lost, "\n".join(f"{kind} {o.index}: {o.what}\n{o.detail}" for o in lost[:5])
    assert sorted(outcome.index for outcome in of_kind) == list(range(count))
    assert max(outcome.memory for outcome in of_kind) < fuzz.MEMORY_BYTES
    refused = sum(outcome.what in ("refused", "listed") for outcome in of_kind)
    # Or nothing would have been damaged, or everything beyond recognition.
    assert refused and (kind == "CSV" or refused < count)


def read_with_every_fault(folder: Path, data: bytes, index: int) -> str:
    """Has each fault that the fuzzer is there to find, one per input."""
    match index:
        case 1:
            os.abort()
        case 2:
            bytearray(8 << 30)
        case 3:
            raise KeyError("width")
        case 4:
            int(data)  # a ValueError that nobody meant to raise
        case 5:
            raise readers.Broken("other pixels")
        case 6:
            time.sleep(600)
    return "read"


KINDS = {"bad": readers.Kind(lambda: [b"x"], lambda rng, data, others: data, read_with_every_fault)}


def test_what_is_lost_is_noticed(monkeypatch):
    monkeypatch.setattr(fuzz, "PATIENCE", 5.0)
    run = fuzz.run(["bad"], 7, seed=0, workers=1, module=__name__)
    wrong = "wrong error"
    expected = ("read", "crash", "memory", wrong, wrong, "wrong result", "hang")
    assert {outcome.index: outcome.what for outcome in run} == dict(enumerate(expected))


def test_one_input_is_read_again_of_each_kind_that_is_named(capsys):
    assert fuzz.main(["--only=5", "--kind=CSV", "--kind=PNG"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["Outcome(kind='CSV'", "Outcome(kind='PNG'"]
