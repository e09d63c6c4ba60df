"""A builder of each kind of examples under TFDS's own test case: written and read by TensorFlow.

Needs the extra `tf`; without it these tests are skipped. test_every_builder.py builds the fakes of
all of them, without TensorFlow.
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


def _one_of_each_kind():
    """Builders by what their examples hold, of which base/builder.py makes the features."""
    kinds = {}
    for cls in map(build.builder_class, every.names()):
        has = cls.READERS, cls.HAS_BOXES, cls.HAS_REPORTS, bool(cls.MASK_NAMES)
        kinds.setdefault((*has, cls.LABEL_SCALE, cls.ENCODING), cls)
    return kinds.values()


for _class in _one_of_each_kind():
    _name = _class.name
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
