"""The project's secret, and the way back from hashed ids for whoever has the data."""

import csv
import hashlib
import hmac
import io
import os
import resource
import stat
import threading

import pytest

from cxr_jax.data import pseudonyms
from cxr_jax.data.splits import load_split
from data_builders import reidentify
from tests.fakes.dataset import build_and_read


def test_the_secret_is_made_once_and_for_its_owner_alone(tmp_path):
    found = []
    folder = tmp_path / "not yet there"
    threads = [
        threading.Thread(target=lambda: found.append(pseudonyms.read(folder))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len(set(found)) == 1 and len(found[0]) == 64
    path = folder / pseudonyms.FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert pseudonyms.read(tmp_path / "another") != found[0]
    path.write_text("0123")
    with pytest.raises(ValueError, match="is not a secret of 64 hex digits"):
        pseudonyms.read(folder)


def test_a_full_disk_leaves_no_empty_secret(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with pytest.raises(OSError, match=r"\.salt: File too large"):
            pseudonyms.read(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []
    assert len(pseudonyms.read(tmp_path)) == 64
    assert [path.name for path in tmp_path.iterdir()] == [pseudonyms.FILE]


def test_hashes_are_those_of_hmac_and_tell_kinds_and_owners_apart():
    key = b"k" * 64
    (one,) = pseudonyms.hashed(key, "patient", "nih", ["17"])
    digest = hmac.new(key, b"patient/nih/17", hashlib.sha256).hexdigest()
    assert one == "p" + digest[:16]
    others = (("image", "nih"), ("patient", "mimic_cxr"))
    assert len({one[1:], *(pseudonyms.hashed(key, *other, ["17"])[0][1:] for other in others)}) == 3


def test_whose_an_id_is_can_be_asked_where_the_data_is(data_dir, capsys):
    test = load_split("phantom/tiny", str(data_dir), "test")
    images, patients = test.hashed_ids()
    wanted = [images[3], test.image_ids[5]]
    assert reidentify.main(["phantom/tiny", *wanted, f"--data_dir={data_dir}"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["image_id"] for row in rows] == [test.image_ids[row] for row in (3, 5)]
    assert [row["patient_id"] for row in rows] == [test.patient_ids[row] for row in (3, 5)]
    assert [row["hashed_patient_id"] for row in rows] == [patients[row] for row in (3, 5)]
    asked = ["nobody", f"{test.image_ids[5]}.PNG", "no-image.jpg"]
    assert reidentify.main(["phantom/tiny", f"--data_dir={data_dir}", *asked]) == 1
    said = capsys.readouterr()
    assert said.err == "2 of 3 ids are not in phantom/tiny: nobody, no-image.jpg\n"
    (row,) = csv.DictReader(io.StringIO(said.out))
    assert row["image_id"] == test.image_ids[5]


def test_a_reader_that_has_seen_enough_of_the_ids_is_no_error(data_dir, monkeypatch):
    """As `| head`: nobody reads on."""
    end, start = os.pipe()
    os.close(end)
    with os.fdopen(start, "w") as stream:
        monkeypatch.setattr("sys.stdout", stream)
        assert reidentify.main(["phantom/tiny", f"--data_dir={data_dir}"]) == 0


def test_datasets_of_one_folder_know_each_others_patients_and_splits_ignore_the_secret(tmp_path):
    from tests.fakes import image_folder as fake

    images = fake.write(tmp_path / "raw")
    names = sorted(images)
    table = tmp_path / "labels.csv"
    fake.write_labels(table, names, patient_id=[f"MRN{k // 2}" for k in range(len(names))])
    found = {}
    for data, name in (("a", "first"), ("a", "second"), ("b", "third")):
        options = {"name": name, "labels_csv": str(table)}
        _, splits = build_and_read(
            "image_folder", tmp_path / data, manual_dir=tmp_path / "raw", options=options
        )
        found[name] = {
            e["image_id"]: (split, e["patient_id"]) for split, of in splits.items() for e in of
        }
    assert found["first"] == found["second"]
    assert {k: split for k, (split, _) in found["first"].items()} == {
        k: split for k, (split, _) in found["third"].items()
    }
    patients = [{patient for _, patient in found[name].values()} for name in ("first", "third")]
    assert len(patients[0]) > 3 and not patients[0] & patients[1]
