import json

import numpy as np
from tensorboardX.proto.event_pb2 import Event

from cxr_jax.writer import Progress, Writer


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


def test_progress_line_says_what_a_person_wants_to_know(capsys):
    progress = Progress(total_steps=100, images_per_step=8)
    progress.waited(1e9)
    metrics = {"loss": 1.25, "embedding_std": 0.9, "effective_rank": 12.0}
    speeds = progress.report(50, metrics)
    line = capsys.readouterr().out
    assert "step 50/100  loss 1.2500" in line and "images/s" in line and "left" in line
    assert speeds["speed/data_wait"] == 1.0
    assert speeds["speed/images_per_second"] > 0
