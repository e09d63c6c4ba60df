"""What people's disks hold beside the owner's files: links, copies, odd names."""

import os
import shutil
from pathlib import Path

import pytest

from data_builders import build
from data_builders.base import builder as cxr_builder
from data_builders.base import folders
from data_builders.base.records import BuildError, Record
from tests.fakes import every


def fill(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def names_below(root: Path, **arguments) -> list[str]:
    return [path.relative_to(root).as_posix() for path in folders.files_below(root, **arguments)]


def test_files_come_in_order_without_droppings(tmp_path):
    fill(tmp_path, "b/2.png", "b/1.png", "c.png", "a/x/3.png", ".git/x", "__MACOSX/b/._1.png")
    fill(tmp_path, "b/@eaDir/1.png/SYNOPHOTO_THUMB_XL.jpg", "$RECYCLE.BIN/S-1-5/$R1.png")
    assert names_below(tmp_path) == ["c.png", "a/x/3.png", "b/1.png", "b/2.png"]
    assert names_below(tmp_path, leave_out=[tmp_path / "b"]) == ["c.png", "a/x/3.png"]
    assert names_below(tmp_path / "nowhere") == []


def test_linked_folders_are_read_once_and_loops_are_not_followed(tmp_path):
    root, disk = tmp_path / "raw", tmp_path / "disk"
    fill(root, "own/1.png")
    fill(disk, "images/2.png")
    (root / "a").symlink_to(root / "own")  # lies in the tree already
    (root / "b").symlink_to(disk / "images")
    (root / "c").symlink_to(disk / "images")
    (disk / "images/deeper").symlink_to(root)
    (root / "own/around").symlink_to(tmp_path)  # would also lead to disk/
    (root / "own/itself").symlink_to("itself")
    assert names_below(root) == ["own/1.png", "own/itself", "b/2.png"]
    (tmp_path / "link").symlink_to(root)
    assert names_below(tmp_path / "link") == ["own/1.png", "own/itself", "b/2.png"]


def test_a_root_is_found_beside_links_that_lead_nowhere(tmp_path):
    fill(tmp_path, "b/unpacked/labels.csv", "c/notes.txt")
    (tmp_path / "a").symlink_to("a")
    assert folders.find_root(tmp_path, ("labels.csv",), "labels.csv.").name == "unpacked"
    (tmp_path / "b").rename(tmp_path.parent / f"{tmp_path.name}-disk")
    (tmp_path / "b").symlink_to(tmp_path.parent / f"{tmp_path.name}-disk")
    assert folders.find_root(tmp_path, ("labels.csv",), "labels.csv.").name == "unpacked"
    fill(tmp_path, "d/labels.csv")
    assert folders.find_root(tmp_path, ("labels.csv",), "labels.csv.").name == "d"
    fill(tmp_path, "e/labels.csv")
    with pytest.raises(BuildError, match=r"/d and .*/e: two releases\? Give the path of one"):
        folders.find_root(tmp_path, ("labels.csv",), "labels.csv.")
    with pytest.raises(BuildError, match=r"holds no films.csv.* below it. images"):
        folders.find_root(tmp_path, ("films.csv",), "images.")


def test_a_folder_that_cannot_be_read_is_no_empty_one(tmp_path, monkeypatch):
    fill(tmp_path, "ward1/1.png", "ward2/1.png")
    scandir = os.scandir

    def locked(path):  # to root no folder is
        if str(path).endswith("ward2"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(PermissionError, match="ward2"):
        list(folders.files_below(tmp_path))


@pytest.mark.parametrize("name", [b"\xff.png", b"\xe9tude/1.png"])
def test_a_name_that_is_not_utf8_is_named(tmp_path, name):
    path = os.path.join(os.fsencode(tmp_path), name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w"):
        pass
    with pytest.raises(BuildError, match=r"\\udc(ff.png|e9tude)'.* is not UTF-8; rename it"):
        list(folders.files_below(tmp_path))


def test_copies_count_as_one_and_namesakes_are_refused(tmp_path):
    fill(tmp_path, "a/1.png", "b/1.png")
    key = lambda path: path.stem  # noqa: E731
    with pytest.raises(BuildError, match=r"a/1.png and .*b/1.png differ, but either could be 1\."):
        folders.unique(folders.files_below(tmp_path), key)
    shutil.copy(tmp_path / "a/1.png", tmp_path / "b/1.png")
    assert folders.unique(folders.files_below(tmp_path), key) == {"1": tmp_path / "a/1.png"}
    (tmp_path / "b/1.png").unlink()
    (tmp_path / "b/1.png").symlink_to("nowhere")
    with pytest.raises(BuildError, match="differ"):
        folders.unique(folders.files_below(tmp_path), key)


# An image of each dataset that finds its images by name, and the folder that a copy could lie in.
IMAGES = {
    "chexpert": ("*/train/*/*/*.jpg", ""),
    "indiana_university": ("*.png", ""),
    "jsrt": ("*/*.IMG", ""),
    "medmnist_cxr": ("pneumoniamnist.npz", ""),
    "nih_chestxray14": ("images/*.png", ""),
    "padchest": ("0/*.png", ""),
    "ranzcr_clip": ("train/*.jpg", "train"),
    "rsna_pneumonia": ("stage_2_train_images/*.dcm", "stage_2_train_images"),
    "shenzhen_montgomery": ("*/*/CXR_png/*.png", ""),
    "siim_acr_pneumothorax": ("dicom-images-train/*/*/*.dcm", ""),
    "tb_portals": ("*/*/*/*/*.dcm", ""),
    "vindr_cxr": ("train/*.dicom", "train"),
    "vindr_pcxr": ("test/*.dicom", "test"),
    "vindr_ribcxr": ("data/val/img/*.png", ""),
}


def image_ids(name: str, raw: Path) -> list[str]:
    builder = build.builder_class(name)(data_dir=raw.parent / "data")
    builder.settings = cxr_builder.BuildSettings(num_workers=0)
    return [record.image_id for record in builder.records(raw) if isinstance(record, Record)]


@pytest.mark.parametrize("name", IMAGES)
def test_another_picture_under_an_images_name_stops_the_build(raw, name):
    every.write(name, raw)
    pattern, place = IMAGES[name]
    image = min(raw.glob(pattern))
    before = image_ids(name, raw)
    copy = raw / place / "older" / image.relative_to(raw / place)
    copy.parent.mkdir(parents=True)
    shutil.copy(image, copy)
    assert image_ids(name, raw) == before
    copy.write_bytes(image.read_bytes() + b"0")
    with pytest.raises(BuildError, match=r"differ, but either could be") as error:
        image_ids(name, raw)
    assert str(image) in str(error.value) and str(copy) in str(error.value)
