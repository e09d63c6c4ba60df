"""Zero-shot scores against a softmax by hand; files of prompts, good and bad."""

import json

import numpy as np
import pytest
import scipy.special

from cxr_jax.transfer import zero_shot


def unit(*shape, seed=0):
    vectors = np.random.default_rng(seed).normal(size=shape)
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def test_scores_are_the_log_odds_of_a_softmax_over_both_prompts():
    images, positive, negative = unit(6, 5), unit(3, 5, seed=1), unit(3, 5, seed=2)
    scores = zero_shot.zero_shot_scores(images, positive, negative, 12.0)
    both = np.exp(12.0 * np.stack([images @ positive.T, images @ negative.T]))
    np.testing.assert_allclose(scipy.special.expit(scores), both[0] / both.sum(axis=0), rtol=1e-5)
    classes = zero_shot.zero_shot_scores(images, positive, None, 12.0)
    expected = both[0] / both[0].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(classes), expected, rtol=1e-5)


def test_the_shipped_prompts_have_both_kinds_and_the_drawn_labels():
    prompts = zero_shot.read_prompts(zero_shot._DEFAULT)
    assert all(by_kind["positive"] and by_kind["negative"] for by_kind in prompts.values())
    names = ("Cardiomegaly", "effusion", "Pneumothorax", "lung_opacity", "COVID 19")
    chosen, unused = zero_shot.of_labels(prompts, names, zero_shot._DEFAULT)
    assert chosen["effusion"] is prompts["Effusion"] and "Edema" in unused
    with pytest.raises(ValueError, match=r"prompts\.json has no prompts for Grade, A b\. Name a"):
        zero_shot.of_labels(prompts, ("Grade", "Edema", "A b"), zero_shot._DEFAULT)
    with pytest.raises(ValueError, match=r"labels Edema \+, Edema - would have the same prompts"):
        zero_shot.of_labels(prompts, ("Edema +", "Mass", "Edema -"), zero_shot._DEFAULT)


def test_a_csv_says_what_json_says(tmp_path):
    table, tree = tmp_path / "prompts.csv", tmp_path / "prompts.json"
    table.write_text("label,positive,negative\nEdema,edema,no edema\nEdema,wet,\n")
    tree.write_text(json.dumps({"Edema": {"positive": ["edema", "wet"], "negative": ["no edema"]}}))
    assert zero_shot.read_prompts(table) == zero_shot.read_prompts(tree)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"Edema": ["edema"]}', "Edema: give lists of 'positive' and 'negative'"),
        ("a.json", '{"Edema": {"positive": []}}', "Edema: its positive prompts are no list of"),
        ("a.json", '{"Edema": {"positive": "wet"}}', "its positive prompts are no list of"),
        ("a.json", '{"A b": {"positive": ["a"]}, "a-B": {"positive": ["b"]}}', "A b, a-B are one"),
        ("a.json", "[1]", "does not hold a JSON object"),
        ("a.csv", "label,positive\nEdema,wet\n", "needs the columns label, positive, negative"),
        ("a.csv", "label,positive,negative\n,wet,dry\n", "row 2: no label, or more cells"),
        ("a.csv", "label,positive,negative\nEdema,wet,dry,so\n", "row 2: no label, or more cells"),
        ("a.csv", "label,positive,negative\nEdema,,dry\n", "its positive prompts are no list"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as told:
        zero_shot.read_prompts(tmp_path / name)
    assert str(tmp_path / name) in str(told.value)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        zero_shot.read_prompts(tmp_path / "none.csv")
