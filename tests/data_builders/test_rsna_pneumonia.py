"""RSNA Pneumonia from its raw layouts to what a reader sees."""

import numpy as np
import pytest

from data_builders import splits as split_rule
from data_builders.records import BuildError
from tests.fakes import rsna_pneumonia as fake
from tests.fakes.dataset import build_and_read, by_image
from tests.fakes.read_back import boxes_of, rounded, skipped_of


@pytest.fixture(scope="module", params=fake.LAYOUTS)
def built(request, tmp_path_factory):
    raw, data = tmp_path_factory.mktemp("raw"), tmp_path_factory.mktemp("data")
    films = fake.write(raw, **fake.LAYOUTS[request.param])
    return request.param, films, *build_and_read("rsna_pneumonia", data, manual_dir=raw)


def test_pixels_labels_boxes_and_ids_belong_together(built):
    layout, films, _, splits = built
    examples = by_image(splits)
    assert examples.keys() == films.keys()
    for image_id, film in films.items():
        example = examples[image_id]
        assert np.abs(example["image"][..., 0].astype(int) - film.picture).mean() < 2, image_id
        expected = {name: float(name == film.finding) for name in fake.CLASSES}
        if layout == "without classes":
            expected |= dict.fromkeys(fake.CLASSES[1:], np.nan)
        np.testing.assert_equal(example["labels"], expected)
        assert boxes_of(example) == rounded(film.boxes)
        assert (example["patient_id"], example["sex"], example["view"]) == (
            image_id,
            film.sex,
            film.view,
        )
        np.testing.assert_equal(example["age"], np.float32(film.age))
        assert example["split"] == split_rule.by_patient(image_id)


def test_what_gives_no_example_is_listed_and_the_hold_out_is_not(built):
    _, _, folder, splits = built
    skipped = {name[:36]: reason for name, reason in skipped_of(folder).items()}
    assert skipped.keys() == {
        fake.NO_PIXELS,
        fake.BROKEN,
        fake.ROW_WITHOUT_FILE,
        fake.FILE_WITHOUT_ROW,
    }
    assert skipped[fake.ROW_WITHOUT_FILE] == "no such file"
    assert skipped[fake.FILE_WITHOUT_ROW] == "no row in stage_2_train_labels.csv"
    assert splits.keys() == {"train", "validation", "test"}


LABELS, INFO = "stage_2_train_labels.csv", "stage_2_detailed_class_info.csv"


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (LABELS, "64.0,1", "64.0,0", r"row 2: Target 0 beside .*only an opacity has a box"),
        (LABELS, ",,,,0", ",,,,1", r"row 3: Target 1 beside .*only an opacity has a box"),
        (LABELS, ",,,,0", ",,,,", r"row 3: 'Target' holds '', expected 1 or 0"),
        (LABELS, "256.0,", "wide,", r"row 2: x, y, width, height are \['wide', .*no numbers"),
        (LABELS, "256.0,128.0,512.0", "256.0,,512.0", r"row 2: x, y, width, height are .*''"),
        (LABELS, "512.0,64.0", "-512.0,64.0", r"row 2: .* are no box's x0, y0, x1, y1"),
        (LABELS, fake.patient_id(1), fake.patient_id(0), r"one row, but here .*row 2 and .*row 3"),
        (LABELS, fake.patient_id(2), fake.patient_id(1), r"one row, but here .*row 3 and .*row 4"),
        (LABELS, fake.patient_id(1), "stranger", f"row 3: stranger has no row in {INFO}"),
        (LABELS, "Target", "target", "no column 'Target'. Did you mean 'target'"),
        (INFO, "Lung Opacity\n", "Opacity\n", r"info.csv, row \d+: class 'Opacity' is none of"),
        (INFO, "Lung Opacity\n", "Normal\n", r"info.csv, row \d+: .* is 'Lung Opacity' here and"),
        (INFO, ",Normal", ",Lung Opacity", r"labels.csv, row \d+: Target is 0, but .*'Lung Opac"),
    ],
)
def test_errors_in_the_owners_files_stop_the_build(tmp_path, file, old, new, message):
    fake.write(tmp_path / "raw")
    path = tmp_path / "raw" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(BuildError, match=message):
        build_and_read("rsna_pneumonia", tmp_path / "data", manual_dir=tmp_path / "raw")
