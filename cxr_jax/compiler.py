"""What the compiler is told beside the program: `jax.jit(step, compiler_options=options())`.

XLA's defaults for the CPU cost a training step of the small ResNet a third of its time (jax 0.10;
docs/performance.md). On other devices nothing is changed.
"""

import jax

_ON_CPU = {
    # YNNPACK takes convolutions and reductions from Eigen, which does them twice as fast.
    "xla_cpu_experimental_ynn_fusion_type": "",
    # Barriers stay until programs are fused: models/layers.py says what they are for.
    "xla_disable_hlo_passes": "cse_barrier_expander",
}


def options() -> dict[str, str]:
    """For programs that train or apply an encoder on the default backend."""
    return dict(_ON_CPU) if jax.default_backend() == "cpu" else {}
