"""Weights & Biases (extra `wandb`): numbers and the config; pictures of patients stay here.

WANDB_MODE=offline writes to workdir/wandb alone, for `wandb sync` later; WANDB_PROJECT and the
others are W&B's own. Neither console, host, user, command line nor Git state is sent.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxr_jax.training.loggers import Logger

PACKAGE = "wandb"


class WeightsAndBiases(Logger):
    """A run of W&B's, taken up again under its id."""

    def __init__(self, workdir: Path, config: Mapping[str, Any], before: str):
        import wandb

        quiet = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            save_code=False,
            x_disable_meta=True,
            x_disable_machine_info=True,
            silent=True,
        )
        try:
            self._run = wandb.init(
                dir=workdir,
                id=before or None,
                resume="allow",
                name=workdir.name,
                config=dict(config),
                settings=quiet,
            )
        except wandb.errors.Error as error:
            raise ValueError(
                f"config.loggers: W&B does not take the run ({error}). Log in with `wandb login`; "
                "or WANDB_MODE=offline keeps it in the workdir"
            ) from error
        self.run = self._run.id

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def open_logger(workdir: Path, config: Mapping[str, Any], first_step: int, before: str) -> Logger:
    return WeightsAndBiases(workdir, config, before)
