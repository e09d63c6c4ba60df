"""The whole injection suite: python -m tests.faults [options of pytest]."""

import sys

import pytest

sys.exit(pytest.main(["tests/faults", "--full", "-n", "0", *sys.argv[1:]]))
