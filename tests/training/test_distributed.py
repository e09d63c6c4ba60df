"""Where a scheduler's environment places this process."""

import argparse
import hashlib

import jax
import pytest
from jax._src.clusters import ClusterEnv

from cxr_jax.training import distributed

_SRUN = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "node[003-004]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}


@pytest.fixture
def place(monkeypatch):
    """Returns where JAX would place a pretraining that is started with these variables."""

    def find(environment, **options):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        placed = []

        def initialize(*given, local_device_ids, cluster_detection_method, **_):
            detect = ClusterEnv.auto_detect_unset_distributed_params
            found = detect(*given, local_device_ids, cluster_detection_method, 1)
            if found[0] is None:
                raise ValueError("coordinator_address should be defined.")
            placed.append(found)

        monkeypatch.setattr(jax.distributed, "initialize", initialize)
        names = ("coordinator", "num_processes", "process_id")
        options = dict.fromkeys(names) | {"distributed": "auto", "workdir": "run"} | options
        options |= {"connect_timeout": 60, "heartbeat_timeout": 60}
        shared = distributed.meet(argparse.Namespace(**options), "pretrain")
        assert not shared  # nobody was met
        return placed[0] if placed else None

    return find


def test_a_plain_shell_is_alone(place):
    assert place({}) is None


def test_a_plain_shell_that_must_not_be_alone_is_refused(place):
    with pytest.raises(ValueError, match="no scheduler says where the others are"):
        place({}, distributed="on")


def test_a_task_of_srun_takes_its_gpu(place):
    coordinator, *rest = place(_SRUN)
    assert coordinator.startswith("node003:")
    assert rest == [4, 3, [1]]


def test_the_only_task_of_a_node_takes_all_its_gpus(place):
    changes = {"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "SLURM_LOCALID": "0"}
    assert place(_SRUN | changes)[3] == []  # JAX hides none of them


def test_a_task_of_srun_without_a_workdir_is_refused(place):
    with pytest.raises(ValueError, match="--workdir is missing"):
        place(_SRUN, workdir=None)


@pytest.mark.parametrize("tasks", ["1", None])
def test_one_task_and_a_script_outside_srun_are_alone(place, tasks):
    environment = {name: value for name, value in _SRUN.items() if "STEP_NUM" not in name}
    step = {"SLURM_STEP_NUM_TASKS": tasks} if tasks else {}
    assert place(environment | step) is None


def test_a_pod_is_asked_only_as_a_task_of_an_indexed_job(place):
    assert place({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) is None
    with pytest.raises(ValueError, match=r"indexed Kubernetes job.*jax\[k8s\].*--distributed=off"):
        place({"JOB_COMPLETION_INDEX": "0"})


def test_versions_hash_the_sources():
    of_nothing = hashlib.sha256().hexdigest()[:16]
    assert distributed.versions()["code"] != of_nothing
