"""Every builder under TFDS's own test case: registered, tagged, written and read by TensorFlow.

Needs the extra `tf`; without it these tests are skipped, and the same fakes are built without
TensorFlow in test_every_builder.py.
"""

import tempfile
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")

import tensorflow_datasets as tfds

from data_builders import build
from data_builders.base import builder as cxr_builder
from tests.fakes import every
from tests.fakes.dataset import build_and_read


class _Case:
    """What each test case below adds to TFDS's: a fake written when it starts."""

    @classmethod
    def setUpClass(cls):
        cls._raw = tempfile.TemporaryDirectory()
        cls.EXAMPLE_DIR = cls._raw.name
        every.write(cls.DATASET_CLASS.name, Path(cls._raw.name))
        with tempfile.TemporaryDirectory() as data:
            name = cls.DATASET_CLASS.name
            _, splits = build_and_read(name, Path(data), manual_dir=cls._raw.name)
        cls.SPLITS = {split: len(examples) for split, examples in splits.items()}
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        cls._raw.cleanup()

    def _make_builder(self, config=None):
        builder = super()._make_builder(config)
        # The fakes hold broken images on purpose.
        builder.settings = cxr_builder.BuildSettings(1.0, num_workers=0, progress=False)
        return builder


for _name in every.names():
    _class = build.builder_class(_name)
    _title = "Test" + "".join(word.title() for word in _name.split("_"))
    globals()[_title] = type(
        _title,
        (_Case, tfds.testing.DatasetBuilderTestCase),
        {
            "DATASET_CLASS": _class,
            # The other configs differ in the size of the images.
            "BUILDER_CONFIG_NAMES_TO_TEST": [_class.BUILDER_CONFIGS[0].name],
            "__module__": __name__,
        },
    )
