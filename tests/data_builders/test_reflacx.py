"""REFLACX: readings joined to MIMIC-CXR's images, several readers an image."""

import numpy as np
import pytest

from data_builders.base.records import BuildError
from tests.fakes import mimic_cxr, pulmonary_edema_severity
from tests.fakes import reflacx as fake
from tests.fakes.dataset import (
    Built,
    assert_reasons,
    boxes_of,
    build_and_read,
    build_beside,
    by_image,
    edit,
    patients_of,
    read_text,
    rounded,
    row_of,
    skipped_of,
    write_text,
)


def build(folder):
    return build_beside("reflacx", folder / "raw", options=mimic_cxr.options_for(folder))


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    layout, folder = fake.LAYOUTS[request.param], tmp_path_factory.mktemp("reflacx")
    return Built(layout, fake.write(folder, **layout), *build(folder))


def test_pixels_readers_and_their_certainties_belong_together(built):
    for _, (image, readings, _), example in built.paired():
        said = (example["patient_id"], example["study_id"], example["projection"], example["split"])
        assert said == (image.subject, f"s{image.study}", image.projection, image.split)
        readers = [reader.decode() for reader in example["readers"]]
        assert readers == sorted(readings)
        for name, values in example["labels"].items():
            expected = [readings[reader].get(name, np.nan) for reader in readers]
            np.testing.assert_array_equal(values, expected, err_msg=name)


def test_labels_of_all_phases_are_there_and_free_text_is_not(built):
    labels = built.splits["train"][0]["labels"].keys()
    assert labels == {*fake.FIRST, *fake.LATER} - {"Other"}


def test_boxes_are_fractions_clipped_to_the_image(built):
    for _, (_, _, boxes), example in built.paired():
        assert sorted(boxes_of(example)) == sorted(rounded((name, *at) for name, at in boxes))
    assert {name for image in built.images.values() for name, _ in image.boxes} >= {"Pneumothorax"}


def test_only_the_image_that_mimic_lacks_is_skipped(built):
    (row,) = {
        row_of(built.raw, path.name, fake.UNKNOWN_IMAGE)
        for path in built.raw.rglob("metadata_phase_*.csv")
        if fake.UNKNOWN_IMAGE in path.read_text()
    }
    assert_reasons(skipped_of(built.folder), {row: "not in MIMIC's metadata"})


def test_datasets_on_the_same_images_agree_and_keep_patients_apart(tmp_path):
    fake.write(tmp_path)
    _, reflacx = build(tmp_path)
    _, mimic = build_and_read("mimic_cxr", tmp_path / "data", manual_dir=tmp_path / "mimic")
    pulmonary_edema_severity.write(tmp_path / "edema")
    options = {"mimic_dir": str(tmp_path / "mimic")}
    _, edema = build_and_read(
        "pulmonary_edema_severity",
        tmp_path / "data",
        manual_dir=tmp_path / "edema" / "raw",
        options=options,
    )
    parent = by_image(mimic)
    for child in (reflacx, edema):
        for dicom_id, example in by_image(child).items():
            for name in ("patient_id", "study_id", "projection", "phash"):
                assert example[name] == parent[dicom_id][name]
    for dicom_id, example in by_image(reflacx).items():
        assert example["split"] == parent[dicom_id]["split"]
    for splits in (mimic, reflacx, edema):
        assert splits.keys() == {"train", "validation", "test"}
    # So no patient of REFLACX's test may be trained on in MIMIC, and the other way round.
    of_mimic, of_reflacx = patients_of(mimic), patients_of(reflacx)
    trained, tested = (of_mimic[split] | of_reflacx[split] for split in ("train", "test"))
    assert not trained & tested


@pytest.mark.parametrize(
    ("phase", "old", "new", "message"),
    [
        (3, ",72,64,", ",72,,", r"phase_3.csv, row \d+: image_size_x, image_size_y are no pixels"),
        (3, ",72,64,", ",²,64,", r"phase_3.csv, row \d+: image_size_x, image_size_y are no pixels"),
        (3, ",72,64,0", ",72,64,6", r"row \d+: .* is not a certainty from 0 to 5"),
        (3, ",True\r", ",yes\r", "Support devices is not True or False"),
        (3, "Hiatal hernia", "Hernia", "no column 'Hiatal hernia'"),
        (1, "Airway wall", "Airways wall", "no column 'Airway wall thickening' .* Is it column"),
        (
            3,
            ",train,",
            ",validate,",
            r"in MIMIC's split file the image is in train, not in the split here",
        ),
        (
            3,
            "P300R000017",
            "P300R000018",
            r"metadata_phase_3.csv, row \d+: its id is listed twice, in .*row \d+ too",
        ),
        (3, "/s50", "/s51", "image are not those that MIMIC .* moved against each other"),
        (2, ",10000032,", ",10000033,", "subject_id and image are not those that MIMIC"),
    ],
)
def test_errors_in_the_owners_tables_stop_the_build(tmp_path, phase, old, new, message):
    fake.write(tmp_path)
    path = tmp_path / "raw" / "main_data" / f"metadata_phase_{phase}.csv"
    edit(path, old, new)
    with pytest.raises(BuildError, match=message):
        build(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("18.0,", "left,", r"R\d+/anomaly.*csv, row 2: xmin, ymin, xmax, ymax are no numbers"),
        ("18.0,", "40.0,", "row 2: .* are not a box's"),
        ("False", "maybe", "row 2: .* is not True or False"),
        ("ymax", "bottom", "no column 'ymax'"),
    ],
)
def test_errors_in_the_ellipses_stop_the_build(tmp_path, old, new, message):
    fake.write(tmp_path)
    edit(tmp_path / "raw/main_data/P300R000017/anomaly_location_ellipses.csv", old, new)
    with pytest.raises(BuildError, match=message):
        build(tmp_path)


def test_a_download_without_the_readings_folders_is_refused(tmp_path):
    fake.write(tmp_path)
    (tmp_path / "raw" / "main_data" / "P300R000017").rename(tmp_path / "elsewhere")
    with pytest.raises(
        BuildError, match=r"row \d+: .*main_data has no folder of its id. Download main_data"
    ):
        build(tmp_path)


def test_a_image_without_a_split_is_skipped(tmp_path):
    images = fake.write(tmp_path)
    dicom_id = next(iter(images))
    path = tmp_path / "mimic" / "mimic-cxr-2.0.0-split.csv.gz"
    kept = [line for line in read_text(path).splitlines() if dicom_id not in line]
    write_text(path, "\n".join(kept))
    folder, splits = build(tmp_path)
    assert by_image(splits).keys() == images.keys() - {dicom_id}
    skipped = skipped_of(folder)
    rows = [row for row, why in skipped.items() if why == "not in MIMIC's split file"]
    assert len(rows) == 1 and "metadata_phase_" in rows[0]
