"""Damaged files are read right, skipped and listed, or refused: none is lost, and nobody dies."""

import collections

import pytest

from tests.faults import bad_readers, fuzz, readers

FEW, MANY = 40, 10_000


@pytest.fixture(scope="module")
def outcomes(full):
    count = MANY if full else FEW
    by_kind = collections.defaultdict(list)
    for outcome in fuzz.run(readers.KINDS, count, seed=0):
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


def test_what_is_lost_is_noticed(monkeypatch):
    monkeypatch.setattr(fuzz, "PATIENCE", 5.0)
    run = fuzz.run(["bad"], 7, seed=0, workers=1, module=bad_readers.__name__)
    wrong = "wrong error"
    expected = ("read", "crash", "memory", wrong, wrong, "wrong result", "hang")
    assert {outcome.index: outcome.what for outcome in run} == dict(enumerate(expected))


def test_one_input_is_read_again_of_each_kind_that_is_named(capsys):
    assert fuzz.main(["--only=5", "--kind=CSV", "--kind=PNG"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["Outcome(kind='CSV'", "Outcome(kind='PNG'"]
