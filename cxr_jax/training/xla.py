"""Compiler options and CPU devices: `jax.jit(step, compiler_options=options())`.

XLA's defaults for the CPU cost a training step of the small ResNet a third of its time (jax 0.10;
docs/performance.md). On other devices nothing is changed.
"""

import os

import jax

_IMAGES_A_DEVICE = 32  # with fewer, what the devices tell each other costs more than they save

_ON_CPU = {
    # YNNPACK takes convolutions and reductions from Eigen, which does them twice as fast. And it
    # mixes programs up: products with a matrix that is a constant of the program (closed over, not
    # an argument) came out as garbage in 35 of 40 programs of one process (jaxlib 0.10.2).
    "xla_cpu_experimental_ynn_fusion_type": "",
    # Barriers stay until programs are fused: models/layers.py says what they are for.
    "xla_disable_hlo_passes": "cse_barrier_expander",
}


def options() -> dict[str, str]:
    """Returns those for programs that train or apply an encoder on the default backend."""
    return dict(_ON_CPU) if jax.default_backend() == "cpu" else {}


def split_cpu(batch_size: int) -> None:
    """Makes two devices of every core, as far as the batch fills them; before JAX's first use.

    One part of a layer then waits less for the others than in XLA's own threads: a tenth less time
    a step. Nothing is done where XLA_FLAGS or JAX_NUM_CPU_DEVICES says how many there are.
    """
    given = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if given or "JAX_NUM_CPU_DEVICES" in os.environ:
        return
    most = min(2 * len(os.sched_getaffinity(0)), batch_size // _IMAGES_A_DEVICE)
    fitting = [n for n in (2, 4, 8, 16, 32, 64) if n <= most and batch_size % n == 0]
    jax.config.update("jax_num_cpu_devices", max(fitting, default=1))
