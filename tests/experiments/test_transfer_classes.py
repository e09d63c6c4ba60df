"""Transfers of exclusive classes, and cross-validated ones."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from cxr_jax.experiments import _transfer_inputs, transfer
from cxr_jax.transfer.predictions import read_parquet
from tests.fakes import image_folder
from tests.fakes.dataset import build_and_read


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """A data folder with image_folder: images of three grades, as bright as their grade."""
    folder = tmp_path_factory.mktemp("graded")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(60):
        name = f"{i:03}.png"
        grey = rng.integers(0, 60, (40, 40)) + 60 * (i % 3)
        Image.fromarray(grey.astype(np.uint8)).save(folder / "images" / name)
        split = ("train", "train", "validation", "test")[i // 3 % 4]
        labels = {grade: str(int(k == i % 3)) for k, grade in enumerate(("mild", "more", "most"))}
        if i == 12:
            labels = dict.fromkeys(labels, "")  # an image that nobody graded
        rows.append({"image": name, "patient_id": f"p{i}", "split": split, **labels})
    image_folder.write_rows(folder / "labels.csv", rows)
    build_and_read(
        "image_folder",
        folder / "data",
        manual_dir=folder / "images",
        options={"labels_csv": str(folder / "labels.csv")},
    )
    return folder / "data"


@pytest.mark.usefixtures("finetuned")
@pytest.mark.parametrize(
    ("protocol", "folds", "said"),
    [
        ("linear", 0, "multinomial logistic regression with an L2 penalty"),
        ("linear", 4, "AUROC is of pairs within folds"),
        ("finetune", 0, "a linear head under a softmax over the classes"),
        ("knn", 0, "the vote of the k training images"),
    ],
)
def test_exclusive_classes_through_a_whole_transfer(
    config, graded, tmp_path, protocol, folds, said
):
    config.folds, config.protocol = folds, protocol
    config.C, config.knn.k = (0.01, 1.0), (5,)
    config.dataset, config.data.dir, config.exclusive = "image_folder", str(graded), True
    transfer.run(config, tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert said in report
    assert "AUROC of a class: its images against those of all the others." in report
    predictions = read_parquet(tmp_path / "predictions.parquet")
    np.testing.assert_allclose(predictions.probabilities.sum(axis=1), 1, atol=1e-5)
    if folds:
        fold, found = predictions.fold, []
        for target, score in zip(predictions.targets.T, predictions.scores.T):
            parts = [(target[fold == n], score[fold == n]) for n in range(folds)]
            pairs = [target.sum() * (1 - target).sum() for target, _ in parts]
            found.append(np.average([roc_auc_score(*part) for part in parts], weights=pairs))
        expected = np.mean(found)
    elif protocol == "knn":  # votes tie; to make their sum exactly 1, as below, would part the ties
        columns = zip(predictions.targets.T, predictions.scores.T)
        expected = np.mean([roc_auc_score(target, score) for target, score in columns])
    else:
        chances = predictions.probabilities
        expected = roc_auc_score(predictions.targets.argmax(axis=1), chances, multi_class="ovr")
    macro = json.loads((tmp_path / "metrics.json").read_text())[-1]
    assert macro["auroc"] == pytest.approx(expected, abs=1e-6)


def test_exclusive_changes_what_is_taken_up(config, graded):
    config.dataset, config.data.dir = "image_folder", str(graded)
    (encoder,) = _transfer_inputs.load_encoders(config)
    marks = []
    for config.exclusive in (False, True):
        splits = _transfer_inputs.load_splits(config)
        marks.append(_transfer_inputs.fingerprint(config, encoder, splits))
    assert marks[0] != marks[1]


def test_images_that_break_exclusiveness_are_named(config, graded):
    config.dataset, config.data.dir, config.exclusive = "image_folder", str(graded), True
    config.task = "mild,more"
    message = r"image_folder 'train', row \d+: the image is none of mild, more; .*config.uncertain"
    with pytest.raises(ValueError, match=message):
        _transfer_inputs.load_splits(config)


@pytest.mark.usefixtures("finetuned")
@pytest.mark.parametrize("protocol", ["linear", "finetune"])
def test_cross_validation_scores_every_labelled_image_once(config, tmp_path, capsys, protocol):
    config.protocol, config.C = protocol, (0.01, 1.0)
    config.task, config.folds, config.baselines = "Effusion,Consolidation", 3, "random"
    config.feature_cache = str(tmp_path / "features")
    config.pictures.draw = protocol == "linear"
    transfer.run(config, tmp_path / "run")
    predictions = read_parquet(tmp_path / "run/predictions.parquet")
    config.folds = 0
    splits = _transfer_inputs.load_whole_splits(config)
    images = [image for split in splits for image in split.hashed_ids()[0]]
    assert predictions.image_id.tolist() == images
    known = np.concatenate([split.targets for split in splits])
    np.testing.assert_array_equal(predictions.targets, known)
    assert set(predictions.fold) == {0, 1, 2}
    said = f"3-fold cross-validated by patient, {len(images)} images"
    rows = json.loads((tmp_path / "run/metrics.json").read_text())
    assert all(row["cross_validation"] == said for row in rows)
    report = (tmp_path / "run/report.md").read_text()
    assert f"3-fold cross-validated by patient: {len(images)} images of" in report
    assert "of pairs within folds" in report and "each scored once, by a model" in report
    files = list((tmp_path / "features").glob("*"))
    assert len(files) == (len(splits) if protocol == "linear" else 0)
    assert (tmp_path / "run/films.parquet").exists()
    if protocol == "linear":
        drawn = {path.name for path in (tmp_path / "run/pictures").iterdir()}
        assert drawn == {"neighbours.png", "embedding.png", "projector", "films.csv"}
        assert "](roc.png)" in report and "](reliability.png)" in report
    if protocol == "finetune":
        (first, *_) = (tmp_path / "run/training/metrics.jsonl").read_text().splitlines()
        assert "fold 1/loss/rate_0.001" in json.loads(first)
    capsys.readouterr()
    config.folds = 3
    transfer.run(config, tmp_path / "run")
    assert "random: finished before" in capsys.readouterr().out


def test_cross_validation_of_nearest_neighbours_counts_a_fraction_within_folds(config, tmp_path):
    config.protocol, config.folds, config.label_fraction = "knn", 3, 0.5
    config.task, config.export_features = "Effusion", str(tmp_path / "features.npz")
    config.folds_of = "train+validation"
    transfer.run(config, tmp_path / "run")
    predictions = read_parquet(tmp_path / "run/predictions.parquet")
    facts = json.loads((tmp_path / "run/probe.json").read_text())
    assert len(facts["folds"]) == 3
    assert 0.5 * len(predictions.fold) / 3 == pytest.approx(facts["num_images"], abs=3)
    with np.load(config.export_features) as file:
        assert file["image_id"].tolist() == predictions.image_id.tolist()
        assert set(file["split"]) == {config.folds_of}
    start = json.loads((tmp_path / "run/provenance.json").read_text())["starts"][-1]
    assert list(start["dataset"]) == [f"{config.dataset} {config.folds_of}"]
    config.folds, config.folds_of = 0, "train+validation+test"
    splits = _transfer_inputs.load_whole_splits(config)
    asked = [image for split in splits[:2] for image in split.hashed_ids()[0]]
    assert predictions.image_id.tolist() == asked
    assert "no test image was read" in (tmp_path / "run/report.md").read_text()


@pytest.mark.parametrize(
    ("folds", "parts", "message"),
    [
        (
            3,
            "validation+train",
            r"folds_of=validation\+train: join splits by \+, in the order train",
        ),
        (3, "all", "folds_of=all: join splits"),
        (0, "train+validation", "says of what folds are made: give config.folds"),
    ],
)
def test_folds_of_splits_that_there_are_not_are_refused(config, tmp_path, folds, parts, message):
    config.folds, config.folds_of = folds, parts
    with pytest.raises(ValueError, match=message):
        transfer.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_folds_of_a_dataset_without_a_split_are_of_those_that_it_has(config, graded, tmp_path):
    shutil.copytree(graded, tmp_path / "data")
    (path,) = (tmp_path / "data").rglob("dataset_info.json")
    info = json.loads(path.read_text())
    info["splits"] = [split for split in info["splits"] if split["name"] != "test"]
    path.write_text(json.dumps(info))
    config.dataset, config.data.dir, config.folds = "image_folder", str(tmp_path / "data"), 3
    with pytest.raises(ValueError, match=r"no split test .* config.folds_of=train\+validation$"):
        _transfer_inputs.load_splits(config)
    config.folds_of = "train+validation"
    assert _transfer_inputs.load_splits(config).test.labelled.all()
