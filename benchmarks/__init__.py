"""Benchmarks, each one command: `python -m benchmarks.step`; docs/performance.md reads them."""

import os

# PyTorch's threads otherwise spin between their steps, in the cores that ours then run on.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
