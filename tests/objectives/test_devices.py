"""The loss is the global batch's: value, gradients and statistics agree on 1 and 8 devices.

And the eight share the work: none computes what another does.
"""

import json
import subprocess
import sys
from pathlib import Path

from tests.fakes import devices


def test_loss_and_gradients_are_the_same_on_one_and_eight_devices(tiny):
    # SimCLR: tests/experiments/test_pretrain.py; BYOL: tests/training/test_sharding.py.
    names = ("barlow", "moco", "dino", "dinov2", "convirt")
    configs = json.dumps({name: tiny(name) for name in names})
    script = Path(__file__).parent / "eight_devices.py"
    done = subprocess.run(
        [sys.executable, str(script), configs], env=devices.EIGHT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert results.keys() == {"nt_xent", *names}
    for name, (difference, largest, share) in results.items():
        assert largest > 0.1, name
        assert share < 0.15, (name, share)  # an eighth, and what the losses tell each other
        assert difference < 2e-5 * max(1, largest), name
