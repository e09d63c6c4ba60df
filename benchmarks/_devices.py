"""Accelerators that are only described: XLA compiles for them without one, its plugin installed.

A topology is CHIP:SHAPE. The shape of TPUs is their grid (v5e:4x4, v5p:2x2x1), that of GPUs how
many a host has (h200:8), or hosts times that (h100:2x8).
"""

import contextlib
import importlib.metadata
import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from cxr_jax import xla


class Chip(NamedTuple):
    """What one device can do at most, by its maker's public figures.

    memory: bytes; bandwidth: of it, bytes/s; links: bytes/s to other devices, one direction, all
    links of it together. products: operations/s of matrix products, by their operands' type;
    "f32" is TF32 on a GPU and one bfloat16 pass on a TPU, XLA's default there; "f32 highest" is
    what jax.default_matmul_precision("highest") asks for.
    """

    platform: str  # "gpu" or "tpu"
    memory: int
    bandwidth: float
    links: float
    products: dict[str, float]


_HOPPER = {"bf16": 989.4e12, "f32": 494.7e12, "f32 highest": 66.9e12}


def _tpu(memory: int, bandwidth: float, links: float, bf16: float) -> Chip:
    rates = {"bf16": bf16, "f32": bf16, "f32 highest": bf16 / 6}
    return Chip("tpu", memory, bandwidth, links, rates)


CHIPS = {
    "h100": Chip("gpu", 84_929_347_584, 3.352e12, 450e9, _HOPPER),
    "h200": Chip("gpu", 150_754_820_096, 4.8e12, 450e9, _HOPPER),
    "v5e": _tpu(16 * 2**30, 819e9, 200e9, 197e12),
    "v5p": _tpu(95 * 2**30, 2765e9, 600e9, 459e12),
    "v6e": _tpu(32 * 2**30, 1640e9, 448e9, 918e12),
}
_KINDS = {  # how JAX calls them
    "NVIDIA H100": "h100",
    "NVIDIA H200": "h200",
    "TPU v5 lite": "v5e",
    "TPU v5": "v5p",
    "TPU v6 lite": "v6e",
}
_LIKE = "as --topology=v5e:4x4, v5p:2x2x1, h200:1 or h100:2x8"

# XLA's description of a GPU, as its own specs have it (xla/backends/gpu/target_config/specs).
_GPU = """
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 l2_cache_size: 52428800
  memory_bandwidth: {bandwidth:.0f} device_memory_size: {memory}
  cuda_compute_capability {{ major: 9 }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 }}
runtime_version {{ major: 13 minor: 0 }}
device_description_str: "NVIDIA {name}"
"""


class Topology(NamedTuple):
    name: str
    chip: Chip
    devices: Sequence[Any]

    def made_for(self) -> contextlib.AbstractContextManager[None]:
        """Within it, programs are made for these devices."""
        return xla.made_for(self.chip.platform, self.devices)


def describe(name: str) -> Topology:
    """Returns the devices of a topology, for xla.made_for; no program can run on them.

    Raises ValueError, with the command that mends it, for a topology that is not known here or to
    the compiler, a plugin that is missing or of another version than JAX needs.
    """
    kind, _, shape = name.partition(":")
    if kind not in CHIPS or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){0,2}", shape):
        raise ValueError(
            f"--topology={name} is not CHIP:SHAPE, the chip one of {', '.join(CHIPS)}; {_LIKE}"
        )
    chip = CHIPS[kind]
    # This process's own devices take no part, and the plugin must not look for a GPU's driver.
    jax.config.update("jax_platforms", "cpu")
    _check_plugin(chip.platform)
    try:
        devices = _tpus(name) if chip.platform == "tpu" else _gpus(kind, chip, shape)
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"--topology={name}: the compiler refuses it ({reason}); {_LIKE}"
        ) from error
    return Topology(name, chip, devices)


def attached() -> Topology | None:
    """Returns this process's devices, or None where their rates are not known here."""
    devices = jax.devices()
    kind = devices[0].device_kind
    names = [name for start, name in _KINDS.items() if kind.startswith(start)]
    return Topology(kind, CHIPS[names[0]], devices) if names else None


def _tpus(name: str) -> Sequence[Any]:
    # libtpu asks a cloud's metadata server what it runs on, unless it is told.
    told = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "TPU_ACCELERATOR_TYPE": "v5litepod-16",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    for variable, value in told.items():
        os.environ.setdefault(variable, value)
    return topologies.get_topology_desc(name, platform="tpu").devices


def _gpus(kind: str, chip: Chip, shape: str) -> Sequence[Any]:
    if shape.count("x") > 1:
        raise ValueError(f"--topology={kind}:{shape}: GPUs are N or HOSTSxN; {_LIKE}")
    hosts, _, count = shape.rpartition("x")
    target = _GPU.format(bandwidth=chip.bandwidth, memory=chip.memory, name=kind.upper())
    return topologies.get_topology_desc(
        platform="cuda", target_config=target, topology=f"1x{hosts or 1}x{count}"
    ).devices


def _check_plugin(platform: str) -> None:
    """Raises ValueError unless XLA's compiler for the platform is there as JAX needs it."""
    needs = importlib.metadata.requires("jax") or []
    if platform == "tpu":
        package, mend = "libtpu", "pip install -e '.[tpu]'"
        wanted = next(need.specifier for need in map(Requirement, needs) if need.name == package)
    else:
        package, wanted = "jax-cuda13-plugin", SpecifierSet(f"=={jax.__version__}")
        mend = (
            f"pip install --no-deps jax-cuda13-plugin{wanted} jax-cuda13-pjrt{wanted} (neither a "
            "GPU nor its driver is needed)"
        )
    found = _version(package)
    if not found:
        raise ValueError(f"compiling for a {platform.upper()} needs {package}: {mend}")
    if not wanted.contains(found, prereleases=True):
        needed = f"jax {jax.__version__} needs {package}{wanted}"
        raise ValueError(f"{package} is {found}, but {needed}: {mend}")


def check_cudnn() -> None:
    """Raises ValueError without cuDNN, of which JAX asks the version before it uses it."""
    if not _version("nvidia-cudnn-cu13"):
        raise ValueError(
            "a ViT on a GPU attends by cuDNN, and JAX asks for its library: "
            "pip install --no-deps nvidia-cudnn-cu13"
        )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
