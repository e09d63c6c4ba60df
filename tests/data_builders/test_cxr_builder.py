"""What builders share: order, shards, too many losses, builds that end half-way."""

import csv
import functools

import numpy as np
import pytest
import tensorflow_datasets as tfds

from cxr_jax.io.limits import ImageError
from data_builders.base import builder as cxr_builder
from data_builders.base import parallel, write
from data_builders.base.records import BuildError, Record, Skipped
from tests.fakes.dataset import by_image, read
from tests.fakes.pictures import draw_image


def draw(seed: int, broken: bool = False) -> np.ndarray:
    if broken:
        raise ImageError("broken on purpose")
    return draw_image(seed, 40, 32)


class Drawn(cxr_builder.CxrBuilder, skip_registration=True):
    """200 drawn images, of which the first `num_broken` cannot be read."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = cxr_builder.resolution_configs()
    LABEL_NAMES = ("Odd",)
    ENCODING = "png"
    num_broken = 0

    def records(self, manual_dir):
        for seed in range(200):
            yield Record(
                split="train" if seed < 150 else "test",
                image_id=f"image{seed}",
                patient_id=f"patient{seed // 2}",
                image=functools.partial(draw, seed, broken=seed < self.num_broken),
                labels={"Odd": float(seed % 2)},
            )


@pytest.fixture
def prepare(tmp_path):
    def run(num_broken=0, **settings):
        builder = Drawn(data_dir=tmp_path)
        builder.num_broken = num_broken
        builder.settings = cxr_builder.BuildSettings(
            **{"num_workers": 0, "progress": False, **settings}
        )
        builder.download_and_prepare(file_format="array_record")
        return builder

    return run


def check(splits, missing=()):
    images = by_image(splits)
    assert images.keys() == {f"image{seed}" for seed in range(200)} - {f"image{s}" for s in missing}
    for seed in set(range(200)) - set(missing):
        example = images[f"image{seed}"]
        assert (example["image"][..., 0] == draw_image(seed, 40, 32)).all()
        assert example["labels"]["Odd"] == seed % 2
        assert example["split"] == ("train" if seed < 150 else "test")


def test_shards_hold_every_image_once(prepare, monkeypatch):
    monkeypatch.setattr(write, "SHARD_BYTES", 1_000_000)
    builder = prepare()
    files = sorted(p.name for p in builder.data_path.glob("*train.array_record*"))
    assert len(files) == 5 and files[-1].endswith("-of-00005")
    assert sum(builder.info.splits["train"].shard_lengths) == 150
    check(read(builder.data_path))


def test_images_are_shuffled_and_always_alike(prepare, tmp_path):
    first = [example["image_id"] for example in read(prepare().data_path)["train"]]
    listed = [f"image{seed}" for seed in range(150)]
    assert sorted(first) == sorted(listed) and first != listed
    # Hash order: neighbours in the list (one patient, one source) are far apart.
    places = np.array([first.index(name) for name in listed])
    assert abs(np.corrcoef(places, np.arange(150))[0, 1]) < 0.25


def test_a_few_lost_images_are_listed(prepare):
    builder = prepare(num_broken=2)
    check(read(builder.data_path), missing=(0, 1))
    with open(builder.data_path / "skipped.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["reason"] for row in rows] == ["broken on purpose"] * 2
    assert builder.info.metadata["skipped"] == 2
    assert builder.info.metadata["counts"]["train"]["positives"] == {"Odd": 74}


def test_too_many_lost_images_fail_and_leave_only_the_list(prepare, tmp_path):
    with pytest.raises(BuildError, match=r"3 of 200 images \(1.5%\).*--max_skipped=0.02") as error:
        prepare(num_broken=3)
    path = tmp_path / "drawn-256-skipped.csv"
    assert str(path) in str(error.value) and len(path.read_text().splitlines()) == 4
    assert not list((tmp_path / "drawn").rglob("*.array_record*"))
    assert not Drawn(data_dir=tmp_path).is_prepared()
    prepare(num_broken=3, max_skipped=0.02)
    assert not path.exists()


def test_a_split_that_is_lost_whole_fails(prepare):
    with pytest.raises(BuildError, match="Not one image of 'train'"):
        prepare(num_broken=150, max_skipped=1.0)


def interrupt() -> None:
    raise KeyboardInterrupt


def test_an_interrupted_build_is_no_dataset(prepare, monkeypatch, tmp_path):
    started = [
        Record("train", f"a{n}", "p", functools.partial(draw, n), {"Odd": 1.0}) for n in (1, 2)
    ]
    stopped = Record("train", "b", "p", interrupt, {"Odd": 1.0})
    monkeypatch.setattr(Drawn, "records", lambda self, folder: iter([*started, stopped]))
    with pytest.raises(KeyboardInterrupt):
        prepare()
    assert not list((tmp_path / "drawn/256").iterdir())


def record(**changes):
    fields = {"split": "train", "image_id": "a", "patient_id": "p", "labels": {"Odd": 1.0}}
    return Record(**{"image": functools.partial(draw, 0), "row": "row 2", **fields, **changes})


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (record(row="row 3"), "An image is listed twice: row 2 and row 3"),
        (
            record(image_id="b", split="test", row="row 3"),
            r"two splits.* row 2 is in 'train' and row 3",
        ),
        (record(image_id="b", split="dev"), "row 2: its split is none of"),
        (record(image_id="b", labels={"Even": 1.0}), r"\['Even', 'Odd'\] do not fit"),
    ],
)
def test_records_that_contradict_each_other(prepare, monkeypatch, second, message):
    monkeypatch.setattr(Drawn, "records", lambda self, folder: iter([record(), second]))
    with pytest.raises(BuildError, match=message):
        prepare()


def test_skipped_count_against_what_is_listed(prepare, monkeypatch):
    entries = [record(), *(Skipped(f"{n}.png", "no row") for n in range(3))]
    monkeypatch.setattr(Drawn, "records", lambda self, folder: iter(entries))
    with pytest.raises(BuildError, match=r"3 of 4 images.*no row \(3\).*0.png \(no row\)"):
        prepare()


def test_workers_keep_order_and_memory_bounded():
    taken = []

    def items():
        for number in range(500):
            taken.append(number)
            yield f"tag{number}", number

    results = parallel.parallel_map(abs, items(), num_workers=2)
    first = next(results)
    assert len(taken) <= 2 * 4 * parallel.CHUNK
    rest = list(results)
    assert [first, *rest] == [(f"tag{number}", number) for number in range(500)]


def test_a_worker_that_dies_is_one_clear_message():
    with pytest.raises(BuildError, match=r"process that reads images died.*one of: 7"):
        list(parallel.parallel_map(_die, [("tag", 7)], num_workers=1))


def _die(status: int) -> None:
    import os

    os._exit(status)
