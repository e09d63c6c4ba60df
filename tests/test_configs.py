"""Every preset is in its config's head, and every one that a page names can be built."""

import re
from pathlib import Path

import pytest

from cxr_jax import config as config_file
from cxr_jax import config_fields, objectives

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(p.name for p in (ROOT / "configs").glob("[!_]*.py") if p.stem != "common")


@pytest.mark.parametrize("name", CONFIGS)
def test_head_lists_the_presets_and_each_makes_an_objective(name):
    file = ROOT / "configs" / name
    with pytest.raises(ValueError, match="no preset '-'") as told:
        config_file.load(f"{file}:-", [])
    presets = str(told.value).rpartition("this config has: ")[2].split(", ")
    presets = [] if presets == ["none"] else presets
    assert sorted(re.findall(r"^:(\w+) ", file.read_text(), re.MULTILINE)) == sorted(presets)
    for spec in (str(file), *(f"{file}:{preset}" for preset in presets)):
        config, preset = config_file.load(spec, []), spec.partition(":")[2]
        if preset and config.experiment == "pretrain":
            objectives.build(config)
        patch = config.get("model", {}).get("patch", 1)
        assert not [name for name, view in config.get("views", {}).items() if view.size % patch]
        rows = [row for group in config_fields.sections(spec, config).values() for row in group]
        unsaid = [row.name for row in rows if not row.words]
        assert not unsaid, f"say what they mean, where cxr_jax/config_fields.py reads it: {unsaid}"
        told = config_fields.help_text(spec, config)
        fields = config_file.flat(config.to_dict())
        assert all(f"--config.{name}={value!r}" in told for name, value in fields)
        if preset.startswith("adapt"):
            assert (config.start_share, config.init) == (0.5, "")
            assert config.checkpoint_every_steps < config.num_train_steps


def test_pages_name_presets_that_exist():
    pages = "\n".join(path.read_text() for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md")))
    named = set(re.findall(r"configs/[a-z_]+\.py:\w+", pages))
    named.discard("configs/age.py:cpu")  # docs/architecture.md's example, in no clone
    assert len(named) > 5
    for spec in named:
        config_file.load(str(ROOT / spec), [])


def test_a_transfer_follows_its_pretraining_and_never_the_reverse():
    def load(*changes):
        config = config_file.load("configs/simclr.py:cpu", [f"--config.{one}" for one in changes])
        return config.seed, config.transfer.seed, config.data.dir, config.transfer.data.dir

    assert load("seed=2", "data.dir=/a") == (2, 2, "/a", "/a")
    own = ("seed=2", "transfer.seed=5", "data.dir=/a", "transfer.data.dir=/b")
    assert load(*own) == load(*own[::-1]) == (2, 5, "/a", "/b")


@pytest.mark.parametrize(
    ("spec", "argument", "message"),
    [
        ("byoll", "", "no config file byoll. Did you mean configs/byol.py?"),
        ("configs/byol.py:cpuu", "", "no preset 'cpuu'; did you mean 'cpu'?"),
        ("", "--confg=configs/byol.py", "unknown option '--confg'. Did you mean '--config'?"),
        ("", "configs/byol.py:demo", "Did you mean --config=configs/byol.py:demo?"),
        ("", "brows", "browse NAME?"),
        ("configs/byol.py", "--batch_size=3", "Did you mean '--config.batch_size'?"),
        ("configs/byol.py", "--config.seed=a", "config.seed=a: it takes a whole number, such as 0"),
        ("configs/benchmark.py", "--config.seeds=0,a", "config.seeds=0,a: it takes numbers, such"),
        ("configs/byol.py", "--config.shard_state=2", "it takes True or False, such as False"),
        ("configs/byol.py", "--config.model=vit", "give one of them, as --config.model.name=vit"),
        ("configs/byol.py", "--config.num_resamples=3", "mean 'transfer.num_resamples'?"),
    ],
)
def test_a_slip_of_the_pen_is_answered_by_what_was_meant(spec, argument, message):
    with pytest.raises((ValueError, OSError)) as told:
        config_file.load(spec, [argument] if argument else [])
    assert message in str(told.value)


def test_the_last_of_a_field_given_twice_counts():
    fields = ("C=1,2", "seed=1", "C=3,4", "seed=2")
    config = config_file.load("configs/transfer.py", [f"--config.{field}" for field in fields])
    assert (config.C, config.seed) == ((3, 4), 2)
