"""Transfers: what is taken up again, encoders, reports, exported features."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from cxr_jax.experiments import _transfer_inputs, pretrain, transfer
from cxr_jax.transfer.metrics import compare
from cxr_jax.transfer.predictions import read_parquet
from cxr_jax.weights.encoder import random_encoder
from cxr_jax.weights.export import write_folder
from cxr_jax.weights.exporters import safetensors, timm
from tests.fakes import benchmark as fake
from tests.fakes import image_folder
from tests.fakes.dataset import build_and_read
from tests.fakes.pictures import draw_image


def test_a_result_is_not_taken_up_again_once_the_encoder_has_changed(
    config, tiny_config, begun, tmp_path, capsys
):
    config.encoder = str(shutil.copytree(begun, tmp_path / "encoder"))
    scores = []
    for step in (2, 4, 4):
        if step == 4 and len(scores) == 1:
            pretrain.train(tiny_config("simclr"), tmp_path / "encoder")
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
        key = _transfer_inputs.feature_key(encoder, folder, "test")
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


def test_encoders_of_one_name_are_told_apart(config, begun, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(begun, tmp_path / name)
    config.encoder, config.baselines = str(tmp_path / "a"), f"{tmp_path / 'b'}, random"
    names = [encoder.name for encoder in _transfer_inputs.load_encoders(config)]
    assert names == [
        f"simclr step 2 ({tmp_path / 'a'})",
        f"simclr step 2 ({tmp_path / 'b'})",
        "random",
    ]


def test_several_pretrainings_are_one_encoder(config, begun, tmp_path, capsys):
    """Against the comparison of their predictions; killed and resumed; and refused by name."""
    for number, name in enumerate("ab"):
        shutil.copytree(begun, tmp_path / name)
        saved = json.loads((tmp_path / name / "config.json").read_text()) | {"seed": number}
        (tmp_path / name / "config.json").write_text(json.dumps(saved))
    config.encoder, config.baselines = f"{tmp_path / 'a'}+{tmp_path / 'b'}", "random"
    config.task = "Consolidation"
    run = tmp_path / "run"
    transfer.run(config, run)
    (second,) = (run / "pretrainings").glob("1-simclr-step-2*")
    files = [read_parquet(x / "predictions.parquet") for x in (run, second)]
    baseline = read_parquet(run / "baselines/1-random/predictions.parquet")
    (found,) = json.loads((run / "comparisons.json").read_text())
    names = found["a"], found["b"]
    assert names == ("simclr step 2, 2 pretrainings", "random")
    assert found == compare(files, baseline, names, config.num_resamples, config.seed)
    report = (run / "report.md").read_text()
    assert "the score is the mean of 2 pretrainings of one recipe" in report
    shutil.rmtree(second)
    capsys.readouterr()
    transfer.run(config, run)
    said = capsys.readouterr().out
    assert said.count("finished before") == 2 and json.loads(
        (run / "comparisons.json").read_text()
    ) == [found]
    config.export_features = "f.npz"
    with pytest.raises(ValueError, match=r"a.*b is several pretrainings: name one of them"):
        transfer.run(config, tmp_path / "other")
    config.export_features, config.baselines = "", f"random,{tmp_path / 'b'}"
    with pytest.raises(ValueError, match="/b is compared with itself"):
        transfer.run(config, tmp_path / "other")
    config.encoder, config.baselines = f"{tmp_path / 'a'}+{tmp_path / 'a'}", "random"
    with pytest.raises(ValueError, match=r"config.encoder names .*a twice"):
        transfer.run(config, tmp_path / "other")


def test_a_weights_file_of_another_source_is_probed(config, tmp_path):
    model = {"name": "vit", "variant": "64x1", "patch": 8, "image_size": 32}
    write_folder(tmp_path / "mine", timm.export(random_encoder(model, 32, seed=0)), card="")
    config.encoder = f"timm:{tmp_path / 'mine'}"
    transfer.run(config, tmp_path / "run")
    assert "mine" in (tmp_path / "run/report.md").read_text()
    rows = json.loads((tmp_path / "run/metrics.json").read_text())
    assert rows[-1]["label"] == "macro" and 0.3 < rows[-1]["auroc"] < 1


def test_random_baseline_has_the_encoders_shape_and_is_not_compared_with_itself(config, tmp_path):
    config.encoder, config.baselines = "random", "random,random"
    (encoder,) = _transfer_inputs.load_encoders(config)
    assert (encoder.name, encoder.image_size) == ("random", 32)
    assert encoder.model["variant"] == "small"
    write_folder(tmp_path / "own", safetensors.export(encoder._replace(fit="pad")), card="")
    config.encoder = str(tmp_path / "own")  # its images are squares in the same way
    assert [one.fit for one in _transfer_inputs.load_encoders(config)] == ["pad", "pad"]


def test_a_result_is_of_labels_of_its_names():
    predictions, facts = fake.predictions(1.0, 0, "phantom"), {"fingerprint": "f"}
    facts["not_scored"] = {"Hernia": "no positives"}
    for names in (("Mass", "Nodule"), ("Mass", "Hernia", "Nodule")):
        assert transfer.is_of(facts, predictions, "f", names)
    assert not transfer.is_of(facts, predictions, "f", ("Nodule", "Mass"))


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


def test_finetuning_logs_reports_and_is_not_done_twice(finetuned, tmp_path, capsys):
    config = finetuned
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
