"""The film browser: what it shows is what the dataset has, and no id leaves it."""

import io
import json
import re
import stat

import numpy as np
import pytest
from PIL import Image

from cxr_jax import __main__ as command
from cxr_jax.data.source import load_source
from cxr_jax.report import browse
from cxr_jax.transfer.predictions import Predictions, write_parquet


def data_of(page):
    text = page.read_text()
    return json.loads(re.search('id="data">(.*?)</script>', text, re.S)[1])


@pytest.fixture(scope="module")
def given(data_dir, tmp_path_factory):
    """The drawn test images' source, hashed ids, and a folder with scores and features of them."""
    folder = tmp_path_factory.mktemp("given")
    source = load_source("phantom/tiny", str(data_dir), "test")
    columns = source.columns(("image_id", "patient_id"))
    ids = source.hashed("image", columns["image_id"])
    targets = np.arange(len(ids))[:, None] % 2.0
    scores = np.linspace(-2, 2, len(ids))[:, None]
    patients = np.array(source.hashed("patient", columns["patient_id"]))
    held = Predictions(np.array(ids), patients, ("any",), targets, scores, "log-odds")
    write_parquet(held, folder / "predictions.parquet")
    features = np.random.default_rng(0).normal(size=(len(ids), 5)) + 9
    np.savez(folder / "features.npz", image_id=columns["image_id"], features=features)
    return source, ids, held, features, folder


def test_images_labels_boxes_and_reports_are_the_datasets(data_dir, given, tmp_path):
    source, ids, *_ = given
    name, out = "phantom/tiny", tmp_path / "page"
    page = browse.browse(out, name, str(data_dir), "test", size=64, reports=True)
    films = data_of(page)["films"]
    assert [film["id"] for film in films] == list(ids)
    for film, example in zip(films, source.records):
        for label, value in example["labels"].items():
            shown = film["labels"][label]
            assert (shown is None and np.isnan(value)) or shown == value
        assert film["report"] == example["report"].decode()
        assert [box[0].encode() for box in film["boxes"]] == list(example["boxes"]["label"])
        assert [box[1] for box in film["boxes"]] == pytest.approx(example["boxes"]["y0"], abs=1e-4)
        assert max(Image.open(out / film["file"]).size) <= 64
        masks = [np.asarray(Image.open(io.BytesIO(one))) > 0 for one in example["masks"]["mask"]]
        full = [(n, one) for n, one in zip(example["masks"]["label"], masks) if one.any()]
        assert [mask[0].encode() for mask in film["masks"]] == [name for name, _ in full]
        for (_, file), (_, whole) in zip(film["masks"], full):
            shown = np.asarray(Image.open(out / file))[..., 3] > 127
            assert abs(shown.mean() - whole.mean()) < 0.05
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    written = page.read_bytes()
    own = source.columns(("image_id", "patient_id", "study_id"))
    assert not any(one.encode() in written for column in own.values() for one in column)
    assert "report" not in data_of(browse.browse(out, name, str(data_dir), "test"))["films"][0]


def test_scores_errors_and_neighbours(data_dir, given, tmp_path):
    _, ids, held, features, folder = given
    more = dict(predictions=folder, features=folder / "features.npz")
    page = browse.browse(tmp_path / "p", "phantom/tiny", str(data_dir), **more)
    data = data_of(page)
    assert data["scored"] == ["any"] and data["labels"][-1] == "any"
    films = data["films"]
    assert [film["id"] for film in films] == list(ids)  # the images that are scored, of all splits
    chance = 1 / (1 + np.exp(-held.scores[:, 0]))
    assert [film["score"]["any"] for film in films] == pytest.approx(chance, abs=1e-5)
    errors = [film["error"]["any"] for film in films]
    assert errors == pytest.approx(np.abs(chance - held.targets[:, 0]), abs=1e-5)
    centred = features / np.linalg.norm(features, axis=1, keepdims=True)
    cosines = centred[3] @ centred.T
    cosines[3] = -2
    nearest = np.argsort(-cosines)[:8]
    assert [place for place, _ in films[3]["near"]] == nearest.tolist()
    said = [words for _, words in films[3]["near"]]
    assert len(set(said)) == 8  # as many digits as tell them apart
    assert [float(one) for one in said] == pytest.approx(cosines[nearest], abs=0.006)


def test_a_measure_is_shown_of_the_images_that_count_and_is_no_error(data_dir, given, tmp_path):
    held = given[2]._replace(scores=given[2].targets * 0.75, score_kind="dice")
    write_parquet(held, tmp_path / "dice")
    more = dict(predictions=tmp_path / "dice", size=16)
    films = data_of(browse.browse(tmp_path / "p", "phantom/tiny", str(data_dir), **more))["films"]
    counts = [{"any": 0.75} if target == 1 else {} for target in held.targets[:, 0]]
    assert [film["score"] for film in films] == counts
    assert not any(film["error"] for film in films)


def test_the_most_images_are_spread_over_all(data_dir, given, tmp_path):
    ids = given[1]
    films = data_of(browse.browse(tmp_path / "p", "phantom/tiny", str(data_dir), "test", 3))[
        "films"
    ]
    assert [film["id"] for film in films] == [ids[0], ids[round((len(ids) - 1) / 2)], ids[-1]]


def test_a_page_that_was_cut_short_is_replaced_and_nothing_else(data_dir, tmp_path):
    page = browse.browse(tmp_path / "p", "phantom/tiny", str(data_dir), "test", 2, 16)
    page.unlink()
    (tmp_path / "p" / "notes.txt").write_text("mine")
    browse.browse(tmp_path / "p", "phantom/tiny", str(data_dir), "test", 1, 16)
    left = {one.name for one in page.parent.iterdir() if "-" not in one.name}
    assert left == {".made_by_browse", "0.webp", "index.html", "notes.txt"}


def test_what_cannot_be_used_is_named(data_dir, given, tmp_path, capsys):
    folder = given[-1]
    base = ["browse", "phantom/tiny", f"--data_dir={data_dir}"]
    (tmp_path / "full").mkdir()
    for name in ("index.html", "thesis.txt"):
        (tmp_path / "full" / name).write_text("")
    np.savez(tmp_path / "other.npz", image_id=["x"], features=np.ones((1, 2)))
    write_parquet(given[2]._replace(image_id=np.char.add(given[2].image_id, "x")), tmp_path / "p")
    for more, said in (
        ("--out=full", "holds other things"),
        (f"--features={folder / 'predictions.parquet'}", "needs the arrays image_id"),
        ("--features=other.npz", "none of its image ids is of the dataset's images"),
        ("--predictions=p", "no image of the dataset is in the predictions"),
        ("--split=tset", "has no split 'tset'"),
    ):
        option, _, value = more.partition("=")
        value = value if value == "tset" else tmp_path / value
        out = [] if option == "--out" else [f"--out={tmp_path / 'out'}"]
        assert command.main([*base, *out, f"{option}={value}"]) == 2
        printed = capsys.readouterr().err
        assert said in printed and "Traceback" not in printed, printed
    assert (tmp_path / "full" / "thesis.txt").exists() and not (tmp_path / "out").exists()
