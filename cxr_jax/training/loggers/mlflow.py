"""MLflow (extra `mlflow`): numbers and the config; pictures of patients stay here.

Without MLFLOW_TRACKING_URI the run is written to workdir/mlruns: `mlflow ui --backend-store-uri`.
"""

import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cxr_jax.training.loggers import Logger

PACKAGE = "mlflow"
_LONGEST = 500  # characters of a parameter
_MOST = 100  # parameters at a time
_OTHER = re.compile(r"[^\w\-. /:]")  # what no name may hold


class MLflow(Logger):
    """A run of MLflow's, taken up again under its id."""

    def __init__(self, workdir: Path, config: Mapping[str, Any], before: str):
        from mlflow import MlflowClient, entities, exceptions

        self._metric = entities.Metric
        where = os.environ.get("MLFLOW_TRACKING_URI") or (workdir / "mlruns").resolve().as_uri()
        if where.startswith("file:"):  # which MLflow would have replaced by a data base
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        try:
            self._client = MlflowClient(where)
            if before:
                self.run = before
                self._client.update_run(before, status="RUNNING")
                return
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "cxr_jax")
            found = self._client.get_experiment_by_name(name)
            experiment = found.experiment_id if found else self._client.create_experiment(name)
            self.run = self._client.create_run(experiment, run_name=workdir.name).info.run_id
            fields = [entities.Param(key, str(value)[:_LONGEST]) for key, value in config.items()]
            for start in range(0, len(fields), _MOST):
                self._client.log_batch(self.run, params=fields[start : start + _MOST])
        except exceptions.MlflowException as error:
            raise ValueError(
                f"config.loggers: MLflow at {where} does not take the run ({error})"
            ) from error

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [
            self._metric(_OTHER.sub("_", name), float(value), now, step)
            for name, value in values.items()
        ]
        self._client.log_batch(self.run, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self.run)


def open_logger(workdir: Path, config: Mapping[str, Any], first_step: int, before: str) -> Logger:
    return MLflow(workdir, config, before)
