"""What programs are made for: the devices of this process, or others that are only described.

The mesh, the compiler's options and the layers ask here, so that a program for devices that are not
at hand (benchmarks/aot.py) is the one that would run there, and not the CPU's.

XLA's defaults for the CPU cost a training step of the small ResNet a third of its time (jax 0.10;
docs/performance.md). On other devices nothing is changed.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import jax

_ON_CPU = {
    # YNNPACK takes convolutions and reductions from Eigen, which does them twice as fast. And it
    # mixes programs up: products with a matrix that is a constant of the program (closed over, not
    # an argument) came out as garbage in 35 of 40 programs of one process (jaxlib 0.10.2).
    "xla_cpu_experimental_ynn_fusion_type": "",
    # Barriers stay until programs are fused: models/_layers.py says what they are for.
    "xla_disable_hlo_passes": "cse_barrier_expander",
}
_INSTALL = "'.[cuda]' or '.[tpu]'"
_described: ContextVar[tuple[str, Sequence[Any]] | None] = ContextVar("described", default=None)


@contextlib.contextmanager
def made_for(platform: str, devices: Sequence[Any] = ()) -> Iterator[None]:
    """Within it, programs are made for a platform ("cpu", "gpu" or "tpu") and its devices.

    Without devices those of this process take part in the mesh: enough to lower a program, as
    `program.trace(...).lower(lowering_platforms=...)`, not to compile it. JAX keeps what a jitted
    function did when it was traced first: make the function within, too.
    """
    token = _described.set((platform, devices))
    try:
        yield
    finally:
        _described.reset(token)


def check_devices() -> None:
    """Raises ValueError, with what to do, where JAX does not find the devices that are asked for.

    Says so where this machine has an NVIDIA GPU that JAX does not see.
    """
    asked = os.environ.get("JAX_PLATFORMS", "")
    try:
        found = jax.default_backend()
    except Exception as error:  # JAX raises several kinds, an AssertionError without words too
        raise ValueError(
            f"JAX_PLATFORMS={asked} asks for devices that JAX does not find here "
            f"({str(error).partition('(set JAX')[0].strip() or 'no plugin for them'}). Install "
            f"their part of JAX ({_INSTALL}), see that the driver works (nvidia-smi), or unset "
            "JAX_PLATFORMS to take what there is"
        ) from error
    if found == "cpu" and not asked and os.path.exists("/dev/nvidiactl"):
        print(f"This machine has an NVIDIA GPU that JAX does not see: install {_INSTALL}.")


def platform() -> str:
    """Returns "cpu", "gpu" or "tpu"."""
    described = _described.get()
    return described[0] if described else jax.default_backend()


def devices() -> list[Any]:
    """Returns all devices of all processes."""
    described = _described.get()
    return list((described and described[1]) or jax.devices())


def options() -> dict[str, str]:
    """Returns jit's compiler_options for programs that train or apply an encoder."""
    return dict(_ON_CPU) if platform() == "cpu" else {}
