"""Sentences of images' reports: which they are, and that each batch's are its own images'."""

import json

import numpy as np
import pytest

from cxr_jax.data import loader, order, reports
from cxr_jax.data.source import load_source
from tests.fakes import indiana_university
from tests.fakes.dataset import build_layout

pytest.importorskip("tokenizers")

FIELDS = dict(sections=("findings", "impression"), max_tokens=96, tokenizer="", vocabulary=400)
MIMIC = """                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 INDICATION:  History: ___M with cough.  // pneumonia?

 FINDINGS:

 The lungs are
 clear.  Heart size: normal.  No pleural effusion or
 pneumothorax.

 IMPRESSION:

 1. No acute cardiopulmonary process.
 2.  Nodule?
"""


def test_only_the_wanted_sections_and_their_sentences():
    assert reports.sentences_of([MIMIC], ("findings",)) == [
        (
            *("The lungs are clear.", "Heart size: normal."),
            "No pleural effusion or pneumothorax.",
        )
    ]
    assert reports.sentences_of([MIMIC], ("impression",)) == [
        ("No acute cardiopulmonary process.", "Nodule?")
    ]
    both = "FINDINGS AND IMPRESSION: Clear lungs.\nNOTIFICATION: By phone."
    assert reports.sentences_of([both, both], ("impression",)) == [("Clear lungs.",)] * 2
    assert reports.sentences_of([both], ("technique",)) == [()]
    whole = "Sin hallazgos. Corazon normal."
    assert reports.sentences_of([whole], ()) == [("Sin hallazgos.", "Corazon normal.")]
    assert reports.sentences_of(["FINDINGS: Clear."], ("findings",)) == [()]  # two of three tokens
    assert reports.sentences_of(["", "1. 2. 3."], ()) == [(), ()]


@pytest.fixture(scope="module")
def opened(data_dir, tmp_path_factory):
    source = load_source("phantom/tiny", str(data_dir), "train", fields=("image", "report"))
    return reports.open_reports(source, FIELDS, tmp_path_factory.mktemp("run"))


def texts(source) -> list[set[str]]:
    """What each image's report may say, as tokens give it back."""
    found = reports.sentences_of(
        [source.records[row]["report"].decode() for row in range(len(source))], FIELDS["sections"]
    )
    return [{plain(sentence) for sentence in sentences} for sentences in found]


def plain(text: str) -> str:
    return "".join(character for character in text.lower() if character.isalnum())


def said(made, batch) -> list[str]:
    """The batch's sentences, read back from their tokens."""
    from tokenizers import Tokenizer

    words = Tokenizer.from_str(made.tokenizer)
    assert batch["tokens"].dtype == np.int32 and batch["mask"].dtype == bool
    assert not batch["tokens"][~batch["mask"]].any()
    return [
        plain(words.decode(tokens[mask].tolist()))
        for tokens, mask in zip(batch["tokens"], batch["mask"])
    ]


def test_every_image_comes_with_all_sentences_of_its_own_report_equally_often(opened):
    source, made = opened
    assert len(source) == 36
    own, epochs = texts(source), 400
    rows = order.rows(36, 3, 0, epochs * 36)
    drawn = said(made, made.draw(3, 0, epochs * 36))
    assert all(sentence in own[row] for row, sentence in zip(rows, drawn))
    of_one = [sentence for row, sentence in zip(rows, drawn) if row == 7]
    counts = [of_one.count(sentence) for sentence in own[7]]
    assert len(counts) > 3 and min(counts) > 0.6 * epochs / len(counts)


def test_batches_hold_the_same_rows_whoever_makes_them_and_from_wherever(opened):
    source, made = opened
    own, images = texts(source), loader.read_images(source, 32, False, np.arange(36))
    whole = loader.batches(source, 12, 32, 5, fields=order.Fields(made.draw))
    rows = loader.row_batches(source, 12, 5, fields=order.Fields(made.draw))
    for _ in range(4):
        batch, places = next(whole), next(rows)
        assert batch.keys() == {"image", "tokens", "mask"}
        np.testing.assert_array_equal(batch["image"], images[places["image"]])
        assert all(text in own[row] for row, text in zip(places["image"], said(made, batch)))
        for name in ("tokens", "mask"):
            np.testing.assert_array_equal(batch[name], places[name])
    state = json.loads(json.dumps(rows.get_state()))
    halves = [
        loader.row_batches(source, 12, 5, block, 2, fields=order.Fields(made.draw))
        for block in range(2)
    ]
    for half in halves:
        half.set_state(state)
    expected, parts = next(whole), [next(half) for half in halves]
    for name in ("tokens", "mask"):
        joined = np.concatenate([part[name] for part in parts])
        np.testing.assert_array_equal(joined, expected[name])


def test_images_without_a_report_are_left_out_and_counted(tmp_path, capsys):
    build_layout("indiana_university", indiana_university, "nlm", tmp_path)
    source = load_source("indiana_university", str(tmp_path / "data"), "train+validation+test")
    kept, made = reports.open_reports(source, FIELDS, tmp_path / "run")
    # Report 4 is "Clear.", one word and a mark.
    ids = [source.records[row]["image_id"].decode() for row in range(len(source))]
    short = [image for image in ids if image.startswith("CXR4_")]
    assert short and len(kept) == len(source) - len(short)
    assert f"Left out {len(short)} of {len(source)} images that have no report" in (
        capsys.readouterr().out
    )
    own = texts(kept)
    rows = order.rows(len(kept), 0, 0, 40)
    drawn = said(made, made.draw(0, 0, 40))
    assert all(text in own[row] for row, text in zip(rows, drawn))


def test_equal_reports_have_equal_marks_and_others_do_not(opened, data_dir, tmp_path):
    source, made = opened
    source = load_source("phantom/tiny", str(data_dir), "train")
    again = reports.open_reports(source, FIELDS, tmp_path)[1]
    assert again.fingerprint() == made.fingerprint()
    cut = reports.open_reports(source, FIELDS | dict(max_tokens=5), tmp_path)[1]
    assert cut.fingerprint() != made.fingerprint()
    assert cut.draw(0, 0, 9)["tokens"].shape == (9, 5)


def test_what_cannot_give_reports_is_refused(data_dir, studies_dir, tmp_path):
    phantom = load_source("phantom/tiny", str(data_dir), "train")
    images = load_source("image_folder", str(studies_dir), "train")
    for source, change, message in (
        (
            images,
            {},
            "dataset image_folder has no reports, which .*; indiana_university, mimic_cxr",
        ),
        (phantom, dict(sections=("technique",)), r"has a report with .*sections=\(\) takes"),
        (phantom, dict(sections="findings"), r"sections is 'findings'; it must be a tuple"),
        (phantom, dict(max_tokens=2), "max_tokens=2: a sentence needs 3 or more"),
        (phantom, dict(max_token=9), "no field 'max_token'; did you mean 'max_tokens'"),
    ):
        with pytest.raises(ValueError, match=message):
            reports.open_reports(source, FIELDS | change, tmp_path)
    older = phantom.__class__(*phantom[:6], ("image",))
    with pytest.raises(ValueError, match="phantom if it is built again"):
        reports.open_reports(older, FIELDS, tmp_path)
