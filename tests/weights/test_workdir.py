import json

import pytest

from cxr_jax import weights


def test_folders_that_hold_no_encoder_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"not the workdir of a pretraining: no config"):
        weights.load(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"experiment": "transfer"}))
    with pytest.raises(ValueError, match="workdir of a transfer run"):
        weights.load(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"experiment": "pretrain"}))
    with pytest.raises(FileNotFoundError, match="has no checkpoint yet"):
        weights.load(f"workdir:{tmp_path}")
