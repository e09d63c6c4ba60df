import json
import re

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from cxr_jax.training.log import Progress, Writer, write_projector


def _lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_scalars_reach_the_file_and_tensorboard(tmp_path):
    writer = Writer(tmp_path)
    writer.scalars(3, {"loss": 0.5})
    writer.board_scalars(3, {"speed/images_per_second": 100.0})
    writer.image(3, "views", np.zeros((4, 6, 1), np.uint8))
    writer.close()
    assert _lines(tmp_path) == [{"step": 3, "loss": 0.5}]
    tags = {value.tag for event in _events(tmp_path) for value in event.summary.value}
    assert {"loss", "speed/images_per_second", "views"} <= tags


def test_tensorboard_has_the_config_as_hyperparameters_once(tmp_path):
    for first_step in (0, 1):
        writer = Writer(tmp_path, first_step, config={"batch_size": 16, "crop": (0.2, 1.0)})
        writer.scalars(1, {"loss": 0.5})
        writer.close()
    held = [
        HParamsPluginData.FromString(value.metadata.plugin_data.content).session_start_info.hparams
        for event in _events(tmp_path)
        for value in event.summary.value
        if value.tag == "_hparams_/session_start_info"
    ]
    assert len(held) == 1
    assert held[0]["batch_size"].number_value == 16 and held[0]["crop"].string_value == "(0.2, 1.0)"


def _events(folder):
    """Every event, read by TensorBoard's record format: length, its check, data, its check."""
    for path in folder.glob("events.out.tfevents.*"):
        data = path.read_bytes()
        while data:
            length = int.from_bytes(data[:8], "little")
            event = Event()
            event.ParseFromString(data[12 : 12 + length])
            yield event
            data = data[16 + length :]


def test_resuming_takes_back_lines_after_the_step_and_a_torn_one(tmp_path):
    writer = Writer(tmp_path)
    for step in (1, 2, 3):
        writer.scalars(step, {"loss": 1.0})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    writer = Writer(tmp_path, first_step=2)
    writer.scalars(3, {"loss": 2.0})
    writer.close()
    assert [(line["step"], line["loss"]) for line in _lines(tmp_path)] == [(1, 1), (2, 1), (3, 2)]


WHOLE = b'{"step": 2, "loss": 1.0}\n{"step": 4, "loss": 1.0}\n{"step": 5, "loss": 1.0}\n'
DAMAGED = {  # the file, of a run that goes on after step 5, and the line that is to be named
    "a foreign line first": (b"hello\n" + WHOLE, 1),
    "a foreign line within": (WHOLE.replace(b"\n", b"\n[5]\n", 1), 2),
    "the last line cut": (WHOLE[:-9], 3),
    "the last line cut before its step": (WHOLE[:-20], 3),
    "the last line gone": (WHOLE[:-25], 3),
    "bytes that are no text": (WHOLE.replace(b"loss", b"l\xffss", 2), 1),
    "nothing that can be read": (b"\0" * 64, 1),
}


def _run_of_five_steps(folder, lines):
    (folder / "config.json").write_text('{"log_every_steps": 2, "num_train_steps": 5}')
    (folder / "metrics.jsonl").write_bytes(lines)


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_history_is_refused_by_line_and_left_as_it_is(tmp_path, case):
    lines, number = DAMAGED[case]
    _run_of_five_steps(tmp_path, lines)
    with pytest.raises(ValueError, match=rf"metrics.jsonl, line {number}, is .* move it away"):
        Writer(tmp_path, first_step=5)
    assert (tmp_path / "metrics.jsonl").read_bytes() == lines


@pytest.mark.parametrize("after", [b"", b'{"st', b'{"step": 4, "lo', b"\xff", WHOLE[25:-9]])
def test_what_a_kill_leaves_after_the_step_is_no_damage(tmp_path, after):
    """Of steps 1 to 3 the second alone is logged."""
    _run_of_five_steps(tmp_path, WHOLE[:25] + after)
    Writer(tmp_path, first_step=3).close()
    assert (tmp_path / "metrics.jsonl").read_bytes() == WHOLE[:25]


def test_a_whole_history_stays_and_one_moved_away_is_not_missed(tmp_path):
    for lines in (WHOLE, WHOLE[:-1], b""):
        _run_of_five_steps(tmp_path, lines)
        Writer(tmp_path, first_step=5).close()
        assert (tmp_path / "metrics.jsonl").read_bytes() == (lines and WHOLE)


def test_progress_line_says_what_a_person_wants_to_know(capsys):
    progress = Progress(total_steps=100, images_per_step=8)
    progress.waited(1e9)
    metrics = {"loss": 1.25, "embedding_std": 0.9, "effective_rank": 12.0}
    speeds = progress.report(50, metrics)
    line = capsys.readouterr().out
    assert "step 50/100  loss 1.2500" in line and "images/s" in line and "left" in line
    assert speeds["speed/data_wait"] == 1.0
    assert speeds["speed/images_per_second"] > 0


def test_the_projector_finds_what_its_config_names(tmp_path):
    """TensorBoard reads the paths of projector_config.pbtxt relative to it."""
    rng = np.random.default_rng(0)
    points, images = rng.normal(size=(5, 3)), rng.integers(0, 256, (5, 8, 8), np.uint8)
    columns = {"Mass\t": ["present", "absent", "unknown", "absent", "a\nb"], "age": list("12345")}
    write_projector(tmp_path / "p", points, columns, images)
    assert len(list((tmp_path / "p").glob("events.out.tfevents.*"))) == 1  # makes it a run
    assert not (tmp_path / "p" / "metrics.jsonl").exists()
    config = (tmp_path / "p" / "projector_config.pbtxt").read_text()
    assert config.count("embeddings {") == 1 and config.count("single_image_dim: 8") == 2
    tensors, metadata, sprite = (
        tmp_path / "p" / re.search(rf'{field}: "(.+)"', config)[1]
        for field in ("tensor_path", "metadata_path", "image_path")
    )
    np.testing.assert_allclose(np.loadtxt(tensors, delimiter="\t"), points, atol=1e-4)
    header, *rows = [line.split("\t") for line in metadata.read_text().splitlines()]
    assert header == ["Mass", "age"] and rows[4] == ["a b", "5"] and len(rows) == 5
    with Image.open(sprite) as image:
        held = np.asarray(image.convert("L"))
    assert held.shape == (24, 24)  # three thumbnails a row, and square
    for index, original in enumerate(images):
        top, left = 8 * (index // 3), 8 * (index % 3)
        np.testing.assert_allclose(held[top : top + 8, left : left + 8], original, atol=1)
