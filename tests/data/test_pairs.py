"""Partners of films: who they are, and that their order is reproducible on any number of hosts."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr_jax.data import images, pairs, pipeline
from cxr_jax.data.source import load_source
from tests.fakes.dataset import build_beside
from tests.fakes.pictures import film

#           0    1    2    3    4    5    6    7
PATIENTS = ["a", "a", "a", "b", "b", "", "", "c"]
STUDIES = ["1", "1", "1", "1", "2", "3", "3", ""]


@pytest.fixture(scope="module")
def drawn(data_dir):
    return load_source("phantom/tiny", str(data_dir), "train", fields=("image",))


@pytest.fixture(scope="module")
def in_studies(tmp_path_factory):
    """Eight films of the patients and studies above, their numbers by their rows."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "raw").mkdir()
    for i in range(8):
        Image.fromarray(film(i)).save(folder / "raw" / f"{i}.png")
    rows = [f"{i}.png,{PATIENTS[i] or 'd'},{STUDIES[i]},train\n" for i in range(8)]
    table = folder / "labels.csv"
    table.write_text("image,patient_id,study_id,split\n" + "".join(rows))
    _, splits = build_beside("image_folder", folder / "raw", options={"labels_csv": str(table)})
    source = load_source("image_folder", str(folder / "data"), "train", fields=("image",))
    return source, [int(Path(example["image_id"]).stem) for example in splits["train"]]


def test_partners_share_patient_and_study_and_both_are_known():
    partners = pairs.Partners(PATIENTS, STUDIES)
    assert [partners.others(row) for row in range(8)] == [[1, 2], [0, 2], [0, 1], *[[]] * 5]
    np.testing.assert_array_equal(partners.has_other(), [True] * 3 + [False] * 5)


def test_films_come_in_the_order_of_the_pipeline_each_with_all_its_partners_in_turn(drawn):
    partners = pairs.Partners([str(row // 3) for row in range(36)], ["1"] * 35 + [""])
    dataset = pairs.row_pairs(partners, seed=4)
    pairs_drawn = [dataset[i] for i in range(720)]
    rows = next(pipeline.row_batches(drawn, 36, seed=4))
    np.testing.assert_array_equal([pair["row"] for pair in pairs_drawn[:36]], rows)
    for row in range(36):
        seen = {int(pair["pair"]) for pair in pairs_drawn if pair["row"] == row}
        assert seen == set(partners.others(row) or [row])


def test_hosts_share_the_global_order_and_its_partners():
    partners = pairs.Partners(PATIENTS, STUDIES)
    whole = pairs.row_pairs(partners, seed=4)
    parts = [pairs.row_pairs(partners, 4, host, 2) for host in range(2)]
    for i in range(100):
        assert parts[i % 2][i // 2] == whole[i]


def test_partners_of_a_dataset_come_from_its_metadata(in_studies):
    source, numbers = in_studies
    partners = pairs.find_partners(source)
    others = {numbers[i]: {numbers[j] for j in partners.others(i)} for i in range(8)}
    # The two films of patient d, whom the table of the test above leaves unknown, are partners.
    assert others == {0: {1, 2}, 1: {0, 2}, 2: {0, 1}, 3: set(), 4: set(), 5: {6}, 6: {5}, 7: set()}
    rows = np.array([numbers.index(i) for i in (7, 2, 0)])
    chosen = pairs.find_partners(source.choose(rows))
    assert [chosen.others(row) for row in range(3)] == [[], [2], [1]]


def test_films_are_decoded_with_their_partners(in_studies):
    source, _ = in_studies
    partners = pairs.find_partners(source)
    rows, films = pairs.row_pairs(partners, 4), pairs.film_pairs(source, partners, 32, 4)
    for i in range(8):
        for name, row in (("image", "row"), ("pair", "pair")):
            record = source.records[int(rows[i][row])]
            np.testing.assert_array_equal(films[i][name], images.decode_square(record["image"], 32))
        assert films[i]["paired"] == (rows[i]["row"] != rows[i]["pair"])
    assert {bool(films[i]["paired"]) for i in range(8)} == {True, False}


def test_a_dataset_without_studies_of_two_films_is_refused(drawn):
    with pytest.raises(ValueError, match=r"no study of phantom/tiny 'train' has two films"):
        pairs.find_partners(drawn)
