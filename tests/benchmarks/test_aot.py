"""What is read from compiled programs, and steps lowered for devices that are not at hand."""

from collections import Counter

import jax
import jax.numpy as jnp
import pytest

from benchmarks import _account, _devices, _program, aot, day_one
from cxr_jax import config as config_file

# Lines of the text that go on are indented further, and joined.
_GPU = """
HloModule jit_step, entry_computation_layout={(f32[4,8]{1,0})->f32[4,8]{1,0}}

%fused (param_0: f32[100,8], param_1: f32[4,8]) -> f32[100,8] {
  %param_0 = f32[100,8]{1,0} parameter(0)
  %param_1 = f32[4,8]{1,0} parameter(1)
  %zero = s32[] constant(0)
  ROOT %put = f32[100,8]{1,0} dynamic-update-slice(%param_0, %param_1, %zero, %zero),
      metadata={op_name="jit(step)/transpose(jvp(ViT))/put"}
}

%body (arg: (f32[100,8], f32[4,8])) -> (f32[100,8], f32[4,8]) {
  %arg = (f32[100,8]{1,0}, f32[4,8]{1,0}) parameter(0)
  %all = f32[100,8]{1,0} get-tuple-element(%arg), index=0
  %some = f32[4,8]{1,0} get-tuple-element(%arg), index=1
  %new = f32[100,8]{1,0} fusion(%all, %some), kind=kLoop, calls=%fused
  ROOT %both = (f32[100,8]{1,0}, /*index=1*/f32[4,8]{1,0}) tuple(%new, %some)
}

ENTRY %main (x: bf16[2,8,8,4], k: bf16[16,3,3,4], t: (f32[100,8], f32[4,8])) -> f32[64] {
  %x = bf16[2,8,8,4]{3,2,1,0} parameter(0)
  %k = bf16[16,3,3,4]{3,2,1,0} parameter(1)
  %t = (f32[100,8]{1,0}, f32[4,8]{1,0}) parameter(2)
  %conv = (bf16[2,4,4,16]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k),
      window={size=3x3 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f,
      custom_call_target="__cudnn$convForward",
      metadata={op_name="jit(step)/jvp(ResNet)/conv1/conv_general_dilated"}
  %loop = (f32[100,8]{1,0}, f32[4,8]{1,0}) while(%t), condition=%cond, body=%body,
      backend_config={"known_trip_count":{"n":"25"}}
  %near = f32[64]{0:T(128)S(1)} copy(%g), metadata={op_name="jit(step)/optimizer/mul"}
  %start = (f32[16]{0}, f32[64]{0}) all-gather-start(%near), channel_id=2
  %done = f32[64]{0} all-gather-done(%start), metadata={op_name="jit(step)/augment/vmap()/mul"}
  %q = bf16[2,198,6,64]{3,2,1,0} parameter(3)
  %att = (bf16[2,6,198,64]{3,2,1,0}, u8[0]{0}) custom-call(%q, %q, %q),
      custom_call_target="__cudnn$fmhaSoftmax"
  ROOT %sum = f32[64]{0} all-reduce(%done), to_apply=%add
}
"""


def test_bytes_products_and_collectives_are_read_from_a_program():
    kernels = {kernel.name: kernel for kernel in _program.read(_GPU.replace("\n      ", " "))}
    conv = kernels["conv"]
    # Of 4 x 4 places with 9 taps each, those of the first row and column lie outside.
    assert conv.products == {"bf16": 2 * 2 * 16 * 4 * (4 * 3 - 1) ** 2}
    assert conv.found == Counter({"convolution bf16": 1}) and conv.part == "ResNet forward"
    assert conv.bytes == 2 * (2 * 8 * 8 * 4 + 16 * 3 * 3 * 4 + 2 * 4 * 4 * 16)
    put = kernels["new"]
    assert (put.times, put.bytes, put.part) == (25, 2 * 4 * 4 * 8, "ViT backward")
    assert (kernels["near"].bytes, kernels["near"].part) == (0, "optimizer")
    assert kernels["done"].part == "augmentation"
    assert kernels["att"].products == {"bf16": 4 * 2 * 6 * 198 * 198 * 64}
    found = {"all-gather f32": (1, 256), "all-reduce f32": (1, 256)}
    assert _program.collectives(list(kernels.values())) == found


def test_products_of_a_compiled_program_are_those_of_its_formula():
    def step(x, kernel, w):
        x = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        y = x.reshape(len(x), -1)
        return jax.lax.fori_loop(0, 7, lambda _, y: jnp.sin(y @ w), y)

    shapes = [(2, 6, 6, 3), (3, 3, 3, 4), (64, 64)]
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    kernels = _program.read(jax.jit(step).lower(*arguments).compile().as_text())
    products = sum(k.times * sum(k.products.values()) for k in kernels)
    assert products == 2 * (2 * 16 * 4 * 27) + 7 * 2 * (2 * 64 * 64)


@pytest.mark.parametrize("name", (*aot.OBJECTIVES, "convirt"))
def test_recipes_lower_for_accelerators_with_bfloat16_convolutions(name):
    """The recipe but for fewer blocks; `python -m benchmarks.aot --lower` takes whole ones."""
    preset = ":small" if name == "convirt" else ""  # its recipe needs a file of weights
    config = config_file.load(f"configs/{name}.py{preset}", [])
    cut = {"resnet": {"variant": "18"}, "vit": {"variant": "384x1"}}[config.model.name]
    config.model.update(cut)
    platforms = ("gpu", "tpu") if name in ("simclr", "mae") else ("gpu",)
    for platform, found in _account.lower(config, platforms).items():
        convolutions = [what for what in found if what.startswith("convolution")]
        assert convolutions == ["convolution bf16"], found
        # Max-pool's gradient scatters on a TPU, where that is the fastest, and nowhere else.
        scatters = platform == "tpu" and config.model.name == "resnet"
        assert found["select_and_scatter"] == scatters


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9:2", r"--topology=v9:2 is not CHIP:SHAPE, the chip one of h100, h200, v5e, v5p, v6e"),
        ("h200:0", r"--topology=h200:0 is not CHIP:SHAPE.*; as --topology=v5e:4x4"),
    ],
)
def test_topologies_that_nobody_knows_are_named(name, message):
    with pytest.raises(ValueError, match=message):
        _devices.describe(name)


def test_a_plugin_that_is_missing_or_of_another_version_comes_with_its_command(
    tmp_path, monkeypatch
):
    for package, name, message in (
        ("libtpu", "v5e:4x4", r"for a TPU needs libtpu: pip install -e '\.\[tpu\]'"),
        ("jax-cuda13-plugin", "h200:1", r"needs jax-cuda13-plugin: pip install --no-deps jax-cuda"),
    ):
        if not _devices._version(package):
            with pytest.raises(ValueError, match=message):
                _devices.describe(name)
    folder = tmp_path / "libtpu-0.0.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: libtpu\nVersion: 0.0.1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ValueError, match=r"libtpu is 0\.0\.1, but jax .* needs libtpu==.*: pip"):
        _devices.describe("v5e:4x4")


class _Device:
    process_index = 0

    def __init__(self, number):
        self.id = number


def test_a_batch_that_does_not_divide_is_named():
    topology = _devices.Topology("h200:4", _devices.CHIPS["h200"], [_Device(i) for i in range(4)])
    config = config_file.load("configs/simclr.py:cpu", [])
    config.batch_size = 18
    with pytest.raises(ValueError, match=r"config.batch_size=18 does not divide by the 4 devices"):
        _account.account(config, topology)


def test_what_may_make_a_step_fit():
    config = config_file.load("configs/simclr.py:cpu", [])
    config.batch_size = 64
    assert _account.remedies(config, "v5e:2x4", 8) == [
        ({"model.remat": True}, "v5e:2x4"),
        ({"microbatch_size": 16}, "v5e:2x4"),
        ({}, "v5e:4x4"),
    ]
    config.model.remat, config.microbatch_size = True, 32
    assert _account.remedies(config, "h200:1", 1) == [({}, "h200:2")]


def test_day_one_names_the_kernels_that_lost_most(tiny_config, capsys):
    rates = {"bf16": 1e15, "f32": 1e15, "f32 highest": 1e15}
    chip = _devices.Chip("cpu", 10**10, 1e13, 1e10, rates)
    where = _devices.Topology("CPU", chip, jax.devices()[:1])
    figures = day_one.compare(tiny_config(), where, 1)
    lost = [row["lost ms"] for row in figures["slower"]]
    assert figures["traced"] > 50 and lost == sorted(lost, reverse=True) and lost[-1] > 0
    assert figures["seconds"] > figures["account"]["seconds"] > 0
    day_one.report("tiny", where, figures)
    assert "times what the account allows" in capsys.readouterr().out


def test_day_one_goes_on_after_a_benchmark_that_fails_or_takes_too_long(tmp_path, monkeypatch):
    commands = {"broken": (["benchmarks.step", "--steps=x"], 1, []), "slow": (["asyncio"], 0, [])}
    monkeypatch.setattr(day_one, "BENCHMARKS", commands)
    day_one.run_benchmarks(tmp_path, 10, ["--config=configs/simclr.py:cpu"])
    broken, slow = (tmp_path / "report.md").read_text().split("## slow")
    assert "simclr.py:cpu\n\nFAILED" in broken and "--steps" in broken and "NOT DONE" in slow
