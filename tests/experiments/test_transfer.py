import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from configs import common
from cxr_jax.experiments import _transfer_inputs, pretrain, transfer
from cxr_jax.transfer.predictions import read_parquet
from cxr_jax.weights.encoder import random_encoder
from cxr_jax.weights.export import write_folder
from cxr_jax.weights.exporters import timm
from tests.fakes import image_folder
from tests.fakes.dataset import build_and_read
from tests.fakes.pictures import draw_image


@pytest.fixture
def config(data_dir):
    config = common.transfer()
    config.dataset, config.data.dir = "phantom/tiny", str(data_dir)
    config.num_resamples, config.image_size = 20, 32
    config.model.variant = "small"
    config.baselines = ""
    config.pictures.draw = False
    return config


def test_a_result_is_not_taken_up_again_once_the_encoder_has_changed(
    config, tiny_config, tmp_path, capsys
):
    training = tiny_config("simclr")
    config.encoder = str(tmp_path / "encoder")
    scores = []
    for stop in (2, 4, 4):
        pretrain.train(training, tmp_path / "encoder", stop_after=stop)
        capsys.readouterr()
        transfer.run(config, tmp_path / "transfer")
        scores.append(read_parquet(tmp_path / "transfer" / "predictions.parquet").scores)
    assert not np.array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[1], scores[2])
    assert "simclr step 4: finished before" in capsys.readouterr().out


def test_results_are_not_taken_up_once_images_or_patients_are_others(config, tmp_path):
    """Built anew with two images exchanged, or with patients known: TFDS's own account of the
    dataset stays the same, byte for byte."""
    raw, table = tmp_path / "raw", tmp_path / "labels.csv"
    raw.mkdir()
    for number in range(16):
        Image.fromarray(draw_image(number)).save(raw / f"{number:02}.png")
    config.dataset, config.data.dir = "image_folder", str(tmp_path / "data")
    encoder = _transfer_inputs.load_encoders(config)[0]

    def built(patient):
        rows = [
            {"image": f"{n:02}.png", "patient_id": patient(n), "sign": n % 2}
            | {"split": ("train", "train", "validation", "test")[n // 2 % 4]}
            for n in range(16)
        ]
        image_folder.write_rows(table, rows)
        options = {"labels_csv": str(table)}
        folder, _ = build_and_read(
            "image_folder", tmp_path / "data", manual_dir=raw, overwrite=True, options=options
        )
        splits = _transfer_inputs.load_splits(config)
        account = (folder / "dataset_info.json").read_bytes()
        key = _transfer_inputs.feature_key(encoder, splits.test)
        return account, _transfer_inputs.fingerprint(config, encoder, splits), key

    first = built(lambda n: f"p{n:02}")
    assert built(lambda n: f"p{n:02}") == first
    patients = built(lambda n: f"p{n // 2:02}")
    (raw / "06.png").rename(raw / "other")
    (raw / "07.png").rename(raw / "06.png")
    (raw / "other").rename(raw / "07.png")
    images = built(lambda n: f"p{n // 2:02}")
    assert first[0] == patients[0] == images[0]
    assert len({first[1], patients[1], images[1]}) == 3 and images[2] != patients[2]


def test_encoders_of_one_name_are_told_apart(config, tiny_config, tmp_path):
    training = tiny_config("simclr")
    for name in ("a", "b"):
        pretrain.train(training, tmp_path / name, stop_after=2)
        training.seed += 1
    config.encoder, config.baselines = str(tmp_path / "a"), f"{tmp_path / 'b'}, random"
    names = [encoder.name for encoder in _transfer_inputs.load_encoders(config)]
    assert names == [
        f"simclr step 2 ({tmp_path / 'a'})",
        f"simclr step 2 ({tmp_path / 'b'})",
        "random",
    ]


def test_a_weights_file_of_another_source_is_probed(config, tmp_path):
    model = {"name": "vit", "variant": "64x1", "patch": 8, "image_size": 32}
    write_folder(tmp_path / "mine", timm.export(random_encoder(model, 32, seed=0)), card="")
    config.encoder = f"timm:{tmp_path / 'mine'}"
    transfer.run(config, tmp_path / "run")
    assert "mine" in (tmp_path / "run/report.md").read_text()
    rows = json.loads((tmp_path / "run/metrics.json").read_text())
    assert rows[-1]["label"] == "macro" and 0.3 < rows[-1]["auroc"] < 1


def test_random_baseline_has_the_encoders_shape_and_is_not_compared_with_itself(config):
    config.encoder, config.baselines = "random", "random,random"
    (encoder,) = _transfer_inputs.load_encoders(config)
    assert (encoder.name, encoder.image_size) == ("random", 32)
    assert encoder.model["variant"] == "small"


def test_label_budget_stands_in_the_report_in_words(config, tmp_path, capsys):
    config.label_fraction = 0.5
    transfer.run(config, tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert "(50 % of the training patients whose label is known, drawn with seed 0)" in report
    assert "18 images of 6 patients" in report
    assert json.loads((tmp_path / "comparisons.json").read_text()) == []
    events = b"".join(path.read_bytes() for path in tmp_path.glob("events.out.tfevents.*"))
    few = "Nodule: not estimable: positives of 2 patients in the test set (5 are needed)."
    assert capsys.readouterr().out.count(few) == 1
    assert b"label_fraction" in events and b"random/auroc/Consolidation" in events  # TensorBoard's


def finetune(config):
    config.protocol = "finetune"
    config.finetune.update(
        learning_rates=(1e-3,), batch_size=16, min_steps=2, max_steps=2, evaluations=1
    )
    config.finetune.update(dtype="float32", num_workers=0)
    config.finetune.view.rotate = 0.0


def test_finetuning_logs_reports_and_is_not_done_twice(config, tmp_path, capsys):
    finetune(config)
    transfer.run(config, tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert "# Fine-tuning on phantom/tiny" in report
    assert (
        "trained by adamw in float32 on augmented images" in report
        and "the same budget for every encoder" in report
    )
    assert "random: images of 32 px, learning rate 0.001, step 2 of 2 with batches of 16" in report
    (line,) = (tmp_path / "training" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line).keys() == {"step", "loss/rate_0.001", "auroc/rate_0.001"}
    before = (tmp_path / "predictions.parquet").read_bytes()
    capsys.readouterr()
    transfer.run(config, tmp_path)
    said = capsys.readouterr().out
    assert "random: finished before" in said and "step" not in said
    assert (tmp_path / "predictions.parquet").read_bytes() == before


@pytest.mark.parametrize(
    ("protocol", "field", "value"), [("finetune", "finetune.epochs", 3.0), ("knn", "knn.k", (7,))]
)
def test_a_result_of_other_settings_is_not_taken_up(config, protocol, field, value, tmp_path):
    splits = _transfer_inputs.load_splits(config)
    (encoder,) = _transfer_inputs.load_encoders(config)

    def fingerprint():
        return _transfer_inputs.fingerprint(config, encoder, splits)

    linear = fingerprint()
    config.C = (1.0,)
    assert fingerprint() != linear
    config.protocol = protocol
    before = fingerprint()
    config.C, config.finetune.num_workers = (2.0,), 3  # of no effect on this protocol
    assert fingerprint() == before != linear
    config.update_from_flattened_dict({field: value})
    assert fingerprint() != before


@pytest.mark.parametrize("name", ["lineal", "metrics", "_features"])
def test_an_unknown_protocol_is_named_with_those_there_are(config, tmp_path, name):
    config.protocol = name
    with pytest.raises(
        ValueError,
        match=f"no protocol '{name}' in cxr_jax/transfer; .*it holds: attentive, .*, linear, "
        ".*zero_shot$",
    ):
        transfer.run(config, tmp_path)


def test_nearest_neighbours_choose_on_validation_and_report(config, tmp_path):
    config.protocol, config.task = "knn", "Effusion,Consolidation"
    config.knn.k = (1, 5)
    transfer.run(config, tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert "# Nearest neighbours on phantom/tiny" in report
    assert "k 1, 5, temperature 0.07, chosen per label on validation" in report
    chosen = json.loads((tmp_path / "probe.json").read_text())["chosen"]
    assert all(best["k"] in (1, 5) for best in chosen.values()) and len(chosen) == 2


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_exported_features_are_those_that_were_probed(config, suffix, tmp_path):
    config.C = (0.01,)
    config.export_features = str(tmp_path / "out" / f"features.{suffix}")
    transfer.run(config, tmp_path / "run")
    if suffix == "npz":
        with np.load(config.export_features) as file:
            table = dict(file)
        names = table["label_names"].tolist()
    else:
        frame = pq.read_table(config.export_features).to_pandas()
        names = [name.removeprefix("target/") for name in frame if name.startswith("target/")]
        table = {name: frame[name].to_numpy() for name in ("image_id", "patient_id", "split")}
        table["features"] = np.stack(frame["features"].to_list())
        table["targets"] = frame[[f"target/{name}" for name in names]].to_numpy()
    splits = _transfer_inputs.load_splits(config)
    assert names == list(splits.test.label_names)
    assert table["features"].dtype == table["targets"].dtype == np.float32
    for name, split in splits._asdict().items():
        rows = table["split"] == name
        images, patients = split.hashed_ids()
        assert table["image_id"][rows].tolist() == list(images)
        assert table["patient_id"][rows].tolist() == list(patients)
        np.testing.assert_array_equal(table["targets"][rows], split.targets)
    train, test = (table["split"] == name for name in ("train", "test"))
    scaler = StandardScaler().fit(table["features"][train].astype(np.float64))
    predictions = read_parquet(tmp_path / "run" / "predictions.parquet")
    assert predictions.image_id.tolist() == table["image_id"][test].tolist()
    for k, name in enumerate(predictions.label_names):
        probe = LogisticRegression(C=0.01, tol=1e-10, max_iter=10000)
        x = scaler.transform(table["features"].astype(np.float64))
        probe.fit(x[train], table["targets"][train, names.index(name)])
        np.testing.assert_allclose(
            probe.decision_function(x[test]), predictions.scores[:, k], rtol=1e-3, atol=1e-3
        )


def test_features_need_a_file_of_a_known_kind(config, tmp_path):
    config.export_features = "features.csv"
    with pytest.raises(ValueError, match=r"config.export_features=features.csv must end in .npz"):
        transfer.run(config, tmp_path)


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
    finetune(config)
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


@pytest.mark.parametrize("protocol", ["linear", "finetune"])
def test_cross_validation_scores_every_labelled_image_once(config, tmp_path, capsys, protocol):
    finetune(config)
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
    assert len(list((tmp_path / "features").glob("*"))) == (protocol == "linear")
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
    assert 0.5 * len(predictions.fold) / 3 == pytest.approx(facts["num_films"], abs=3)
    with np.load(config.export_features) as file:
        assert file["image_id"].tolist() == predictions.image_id.tolist()
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
