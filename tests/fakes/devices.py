"""The environment of a process that sees eight devices: their number is fixed when JAX starts."""

import os
from pathlib import Path

EIGHT = {
    **os.environ,
    "JAX_NUM_CPU_DEVICES": "8",
    "JAX_PLATFORMS": "cpu",
    "PYTHONPATH": str(Path(__file__).parents[2]),
}
