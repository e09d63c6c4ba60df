import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cxr_jax.transfer import image_table
from cxr_jax.transfer.image_table import ImageTable


def table(**changes):
    fields = dict(
        image_id=np.array(["a", "b", "c"]),
        sex=np.array(["F", "M", ""]),
        age=np.array([40, np.nan, 71.5], np.float32),
        projection=np.array(["PA", "", "AP"]),
        seen_film=np.array([True, False, False]),
        seen_patient=None,
    )
    return ImageTable(**fields | changes)


def test_what_is_written_is_read_back(tmp_path):
    image_table.write_parquet(table(), tmp_path / "films.parquet")
    back = image_table.read_parquet(tmp_path / "films.parquet")
    for mine, theirs in zip(table(), back, strict=True):
        if mine is None:
            assert theirs is None
        else:
            np.testing.assert_array_equal(mine, theirs)


def test_images_are_put_in_order_by_name():
    ordered = image_table.in_order(table(), np.array(["c", "a"]))
    assert ordered.sex.tolist() == ["", "F"] and ordered.seen_film.tolist() == [False, True]
    assert ordered.seen_patient is None
    with pytest.raises(ValueError, match="image 'd' is not in the table of images"):
        image_table.in_order(table(), np.array(["c", "d"]))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": ["a"]}, "has no column image_id"),
        ({"image_id": ["a", None]}, "row 1: image_id is empty"),
        ({"image_id": ["a", "b", "a"]}, r"image_id 'a' appears twice \(rows 0 and 2\)"),
        ({"image_id": ["a", "b"], "seen_film": [True, None]}, "row 1: seen_film is empty"),
        ({"image_id": ["a", "b"], "age": ["4", "old"]}, "old"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "mine.parquet")
    with pytest.raises(ValueError, match=message) as error:
        image_table.read_parquet(tmp_path / "mine.parquet")
    assert "mine.parquet" in str(error.value)


def test_what_is_unknown_may_be_left_out(tmp_path):
    pq.write_table(pa.table({"image_id": ["a", "b"]}), tmp_path / "mine.parquet")
    known = image_table.read_parquet(tmp_path / "mine.parquet")
    assert known.sex.tolist() == ["", ""] and np.isnan(known.age).all()
    assert known.seen_film is None


def test_images_are_seen_by_their_looks_or_their_patient():
    both = table(seen_patient=np.array([False, False, True]))
    assert both.seen.tolist() == [True, False, True]
    assert table().seen.tolist() == [True, False, False]
    unknown = table(seen_film=None)
    assert unknown.seen is None and not unknown.exposed
    other = table(seen_film=np.array([False, True, False]))
    assert image_table.unseen_images([table(), unknown, other]).tolist() == [False, False, True]
    assert image_table.unseen_images([unknown]).tolist() == [True] * 3


def test_hashes_alone_alarm_only_beyond_one_in_a_hundred():
    def seen(images, patients, total=200):
        numbers = np.arange(total)
        nothing = np.full(total, "")
        known = None if patients is None else numbers < patients
        age = np.full(total, np.nan, np.float32)
        return ImageTable(numbers.astype(str), nothing, age, nothing, numbers < images, known)

    assert not seen(2, None).exposed and not seen(2, 0).exposed
    assert seen(3, None).exposed and seen(3, 0).exposed and seen(0, 1).exposed
    assert image_table.beyond_chance(3, None, 200) and not image_table.beyond_chance(2, 0, 200)


def test_projections_of_older_files_are_in_the_column_view(tmp_path):
    path = tmp_path / "films.parquet"
    pq.write_table(pa.table({"image_id": ["a", "b"], "view": ["PA", None]}), path)
    assert image_table.read_parquet(path).projection.tolist() == ["PA", ""]
