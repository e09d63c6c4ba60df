"""Masks on other grids than their image's, and those that are not its own."""

import io

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from cxr_jax.io.limits import ImageError
from data_builders.base import chexmask, masks, parallel
from data_builders.base.records import BuildError, Record
from tests.fakes import dataset, nih_chestxray14


def decoded(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_a_mask_comes_to_the_stored_images_pixels():
    mask = np.zeros((40, 80), bool)
    mask[8:24, 20:60] = True
    given = parallel.ToRead(
        lambda: np.zeros((40, 80), np.uint8), lambda: {"Lungs": mask, "No": None}
    )
    image = parallel.prepare_image(given, 20, "png")
    (lungs, first), (no, second) = image.masks
    assert (lungs, no) == ("Lungs", "No")
    np.testing.assert_array_equal(decoded(first), 255 * mask[::2, ::2])
    assert decoded(second).shape == (20, 40) and not decoded(second).any()


@pytest.mark.parametrize("shape", [(80, 40), (40, 76), (30, 40)])
def test_a_mask_of_another_shape_is_refused_by_name(shape):
    given = parallel.ToRead(
        lambda: np.zeros((40, 80), np.uint8), lambda: {"Lungs": np.ones(shape, bool)}
    )
    found = parallel.prepare_image(given, 20, "png")
    assert found.masks == () and found.refused.startswith("kept without masks: ")
    assert f"mask of Lungs has another shape, {shape[0]} x {shape[1]} pixels" in found.refused


def test_files_of_masks(tmp_path):
    mask = np.zeros((20, 16), np.uint8)
    mask[3:5, 2:9] = 1
    for name, scale in (("one.png", 255), ("two.gif", 255), ("three.png", 1)):
        Image.fromarray(scale * mask).save(tmp_path / name)
        np.testing.assert_array_equal(masks.read(tmp_path / name), mask > 0)
    # 16 bits are not stretched, opaque transparency says nothing.
    Image.fromarray(np.full((20, 16), 65535, np.uint16)).save(tmp_path / "white.png")
    assert masks.read(tmp_path / "white.png").all()
    Image.fromarray(65534 * (mask == 0).astype(np.uint16) + 1).save(tmp_path / "grey.png")
    for value in (1, 65535):  # colours of 16 bits too
        (tmp_path / "colour.png").write_bytes(
            imagecodecs.png_encode(np.full((20, 16, 3), value, np.uint16))
        )
        assert masks.read(tmp_path / "colour.png").all()
    with pytest.raises(ImageError, match="has 2 grey values"):
        masks.read_own({"Heart": tmp_path / "grey.png"})
    alpha = np.stack([mask, mask, mask, np.full_like(mask, 1)], axis=-1) * 255
    Image.fromarray(alpha).save(tmp_path / "opaque.png")
    np.testing.assert_array_equal(masks.read(tmp_path / "opaque.png"), mask > 0)
    for mode, shown in (("RGBA", alpha[..., [3, 3, 3, 0]]), ("LA", alpha[..., [3, 0]])):
        Image.fromarray(shown, mode).save(tmp_path / "alpha.png")
        with pytest.raises(ImageError, match="a mask with transparent pixels"):
            masks.read(tmp_path / "alpha.png")
    (tmp_path / "four.gif").write_bytes(b"GIF89a" + b"\0" * 20)
    with pytest.raises(ImageError, match="cannot be read"):
        masks.read(tmp_path / "four.gif")


def run_lengths(mask):
    """Counted pixel by pixel: where a run begins, from 1, and how long it is."""
    found = []
    for place, inside in enumerate(mask.ravel()):
        if inside and place and mask.ravel()[place - 1]:
            found[-1] += 1
        elif inside:
            found += [place + 1, 1]
    return " ".join(map(str, found))


def write_chexmask(path, organs, column="Image Index", quality=0.9):
    """Writes image -> masks (left, right, heart) as the owners' table, with their line breaks.

    The first column is the index of pandas; a byte order mark and a blank line do no harm.
    """
    both = "Dice RCA (Mean),Dice RCA (Max)"
    lines = [f"\ufeff,{column},{both},Landmarks,Left Lung,Right Lung,Heart,Height,Width"]
    for number, (image, parts) in enumerate(organs.items()):
        runs = ",".join(map(run_lengths, parts))
        height, width = parts[0].shape
        judged = f"{quality},0.95"
        lines.append(f'{number},{image},{judged},"[[1 2]\n [3 4]]",{runs},{height},{width}')
    path.write_text("\n".join(lines) + "\n\n", encoding="utf-8")


def test_chexmask_gives_lungs_and_hearts_to_images_of_others(tmp_path):
    images = nih_chestxray14.write(raw := tmp_path / "raw")
    names = sorted(images)[:3]
    drawn = np.random.default_rng(0).random((3, 3, 64, 64)) < 0.4
    drawn[0, 2] = False  # no heart
    table = tmp_path / "ChestX-Ray8.csv"
    write_chexmask(table, {f"{name}.png": parts for name, parts in zip(names, drawn)})
    given = dict(config_name="full", options={"chexmask_csv": str(table)})
    folder, splits = dataset.build_beside("nih_chestxray14", raw, **given)
    assert folder.parent.name == "full_chexmask"
    found = dataset.by_image(splits)
    for name, (left, right, heart) in zip(names, drawn):
        held = found[name]["masks"]
        assert [label.decode() for label in held["label"]] == ["Lungs", "Heart"]
        for png, mask in zip(held["mask"], (left | right, heart)):
            np.testing.assert_array_equal(decoded(png) > 0, mask)
    others = [one for name, one in found.items() if name not in names]
    assert others and not any(len(one["masks"]["mask"]) for one in others)
    given = dict(config_name="512", options={"chexmask_csv": ""})  # of a variable that is not set
    with pytest.raises(BuildError, match="is not CheXmask's table of this dataset"):
        dataset.build_beside("nih_chestxray14", raw, **given)


def test_wrong_tables_of_chexmask_are_named(tmp_path):
    # As one of Stanford's zips unpacks.
    record = Record("train", "a", "p", tmp_path / "batch 2 (train 1)/p/s/a.jpg", labels={})
    table = tmp_path / "CheXpert.csv"
    one = {"train/p/s/a.jpg": np.ones((3, 20, 20), bool)}
    write_chexmask(table, one, "Path")
    (given,) = chexmask.add_masks([record], table, "Path")
    assert given.masks()["Heart"].all()
    text = table.read_text()
    row = text.split("\n", 1)[1]
    for wrong, message in (
        (text.replace(",1 400,", ",2 400,", 1), "row 2, Left Lung: runs outside of the image"),
        (text.replace(",1 400,", ",1 4 5,", 1), "row 2, Left Lung: no pairs of whole numbers"),
        (text.replace(",20,20", ",20,x"), "row 2: Height and Width are no whole numbers"),
    ):
        table.write_text(wrong)
        (given,) = chexmask.add_masks([record], table, "Path")
        with pytest.raises(ImageError, match=message):
            given.masks()
    for wrong, message in (
        (text.replace(",0.9,", ",0.6,"), "none of the 0 images of .* is one of this dataset's"),
        (text.replace(",0.95,", ",0.6,"), "none of the 0 images"),  # the two were exchanged
        (text.replace(",0.9,", ",,"), "none of the 0 images"),
        (text.replace("/a.jpg", "/b.jpg"), "none of the 1 images"),
        (text.replace(",0.9,", ",good,"), r"row 2: Dice RCA \(Mean\) and Dice RCA \(Max\) are no"),
        (text.replace(",0.9,", ",0.9,0.9,"), "row 2 has 11 fields, the header 10"),
        (text + row, "row 4: its Path is listed twice, in CheXpert.csv, row 2"),
        (text.replace(",0.9,", ",0.1,") + row, "row 4: its Path is listed twice"),
        (text.replace("Heart", "heart"), r"\(not, or twice: Heart\)"),
        (text + '"', "line 5: not CSV, or damaged"),
    ):
        table.write_text(wrong)
        with pytest.raises(BuildError, match=message):
            chexmask.add_masks([record], table, "Path")
