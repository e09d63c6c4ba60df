"""How busy NVIDIA GPUs are, asked of the program nvidia-smi, which nobody waits for."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

_EVERY = 10.0  # seconds
_ASK = ("nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits")


class Utilisation:
    """The mean share of the last moments in which a kernel ran on these devices of JAX's."""

    def __init__(self, devices: Sequence[Any]):
        """Asks nothing where the devices are no GPUs, or nvidia-smi is not on the PATH."""
        gpus = [device.local_hardware_id for device in devices if device.platform == "gpu"]
        gpus = [gpu for gpu in gpus if gpu is not None]  # a plug-in's may have no number
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").replace(" ", "").split(",")
        chosen = [visible[gpu] if gpu < len(visible) and visible[gpu] else gpu for gpu in gpus]
        self._command = (*_ASK, f"--id={','.join(map(str, chosen))}")
        self._asks = bool(gpus) and shutil.which(_ASK[0]) is not None
        self._process, self._next, self._words = None, 0.0, ""

    def words(self, now: float) -> str:
        """Returns "GPU 97%" as of the last answer; "" without one. `now`: seconds, of any clock."""
        if self._process and self._process.poll() is not None:
            said, _ = self._process.communicate()
            shares = [int(line) for line in said.splitlines() if line.strip().isdigit()]
            self._words = f"GPU {sum(shares) / len(shares):.0f}%" if shares else ""
            self._process = None
        elif self._process and now >= self._next:  # it hangs
            self._words = ""
        if self._asks and not self._process and now >= self._next:
            self._next = now + _EVERY
            pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            try:
                self._process = subprocess.Popen(self._command, **pipes)
            except OSError:  # no memory, for one: no reason to end a training
                self._asks = False
        return self._words
