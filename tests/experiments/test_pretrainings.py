"""Workdirs joined by "+": which are pretrainings of one recipe."""

import json
import re

import pytest

from cxr_jax.experiments._pretrainings import pretrainings


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{0}/a+{0}/a", "config.encoder names {0}/a twice"),
        ("{0}/a+{0}/b/../a", "config.encoder names {0}/a twice (as {0}/b/../a)"),
        ("{0}/a+{0}/b+{0}/same", "{0}/a and {0}/same have the same seed, 0"),
        ("{0}/a+{0}/other", "of {0}/a and {0}/other differ in batch, optimizer.rate: pretrainings"),
        (
            "{0}/a+{0}/alien",
            "{0}/a and {0}/alien were begun with other images: pretrainings",
        ),
        ("{0}/a+{0}/swapped", "{0}/swapped were begun with other weights to start from"),
        ("{0}/a+{0}/early", "of {0}/a is of step 8, that of {0}/early of step 4: let {0}/early"),
        ("{0}/begun+{0}/a", "of {0}/begun is of step 0, that of {0}/a of step 8: let {0}/begun"),
        ("{0}/a+{0}/w.pth", "'{0}/w.pth' is not the workdir of a pretraining"),
        ("{0}/a+torchvision:{0}/w.pth", "'torchvision:{0}/w.pth' is not the workdir"),
        ("{0}/a+{0}/gone", "'{0}/gone' is not the workdir"),
        ("random+{0}/a", "'random' is not the workdir"),
    ],
)
def test_workdirs_that_are_not_one_recipe_are_refused(tmp_path, spec, message):
    recipes = {
        name: {"seed": seed, "transfer": {"seed": seed}, "optimizer": {"rate": 0.1}}
        for seed, name in enumerate(("a", "b", "early", "begun", "alien", "swapped"))
    } | {"other": {"seed": 9, "transfer": {"seed": 9}, "batch": 8, "optimizer": {"rate": 0.2}}}
    recipes = {name: recipe | {"data": {"dir": "data"}} for name, recipe in recipes.items()}
    recipes["b"] |= {"loggers": ["wandb"], "data": {"dir": "elsewhere", "cache": "host"}}
    recipes["b"]["init"], recipes["a"]["init"] = "torchvision:/b/r.pth", "torchvision:/a/r.pth"
    for name, recipe in (recipes | {"same": recipes["a"]}).items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(recipe))
        begun = {
            "dataset": {f"pool of {name}": "other" if name == "alien" else "pool"},
            "encoders": {name: "other" if name == "swapped" else "imagenet"},
        }
        held = {"config": {}, "starts": [begun, begun | {"encoders": {}}]}
        (tmp_path / name / "provenance.json").write_text(json.dumps(held))
    for saved in ("a/checkpoints/4", "a/checkpoints/8", "b/checkpoints/8", "early/checkpoints/4"):
        (tmp_path / saved).mkdir(parents=True)
    (tmp_path / "w.pth").touch()
    with pytest.raises(ValueError, match=re.escape(message.format(tmp_path))):
        pretrainings("config.encoder", spec.format(tmp_path))
    both = [f"{tmp_path}/a", f"{tmp_path}/b"]
    assert pretrainings("config.encoder", "+".join(both)) == both


def test_a_plus_in_a_files_name_is_no_group(tmp_path):
    (tmp_path / "a+b.pth").touch()
    spec = f"torchvision:{tmp_path}/a+b.pth"
    assert pretrainings("config.encoder", spec) == [spec]
