"""Where a scheduler's environment places this process."""

import pytest

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


def _place(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return distributed.find_place(timeout=1)


def test_a_plain_shell_is_alone(monkeypatch):
    assert _place(monkeypatch, {}) is None


def test_a_task_of_srun_takes_its_gpu(monkeypatch):
    place = _place(monkeypatch, _SRUN)
    assert place.coordinator.startswith("node003:")
    assert place[1:] == (4, 3, [1])


def test_the_only_task_of_a_node_takes_all_its_gpus(monkeypatch):
    changes = {"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "SLURM_LOCALID": "0"}
    assert _place(monkeypatch, _SRUN | changes).local_devices is None


@pytest.mark.parametrize("tasks", ["1", None])
def test_one_task_and_a_script_outside_srun_are_alone(monkeypatch, tasks):
    environment = {name: value for name, value in _SRUN.items() if "STEP_NUM" not in name}
    step = {"SLURM_STEP_NUM_TASKS": tasks} if tasks else {}
    assert _place(monkeypatch, environment | step) is None


def test_a_pod_is_asked_only_as_a_task_of_an_indexed_job(monkeypatch):
    assert _place(monkeypatch, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}) is None
    with pytest.raises(ValueError, match=r"indexed Kubernetes job.*jax\[k8s\].*--distributed=off"):
        _place(monkeypatch, {"JOB_COMPLETION_INDEX": "0"})
