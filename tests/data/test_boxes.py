"""Boxes of a dataset, as its records hold them."""

import numpy as np
import pytest

from cxr_jax.data.source import load_source
from cxr_jax.data.splits import load_boxes


def test_boxes_are_those_of_the_records(data_dir):
    boxed = load_boxes("phantom/tiny", str(data_dir), "test")
    source = load_source("phantom/tiny", str(data_dir), "test")
    expected = [
        (image, label.decode(), *corners)
        for image in range(len(source))
        for label, *corners in zip(
            *(source.records[image]["boxes"][part] for part in ("label", "y0", "x0", "y1", "x1"))
        )
    ]
    assert len(expected) > 10 and boxed.flat == 0
    assert [row[:2] for row in expected] == list(zip(boxed.images.tolist(), boxed.labels))
    # Drawn images are square: fractions of the image are those of the square.
    np.testing.assert_allclose(boxed.boxes, [row[2:] for row in expected])
    assert boxed.image(0, 32).shape == (32, 32, 1)


def test_unknown_dataset_is_refused(data_dir):
    with pytest.raises(FileNotFoundError, match="'jsrt' is not built"):
        load_boxes("jsrt", str(data_dir), "train")
