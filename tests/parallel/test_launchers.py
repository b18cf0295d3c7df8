"""What each launcher's own variables say, and what is refused before anyone waits."""

import pytest

from jaxprop.errors import UsageError
from jaxprop.parallel.launchers import LAUNCHERS, Hosts, resolve

NAMES = {"odin097": "10.1.0.97", "node1": "10.1.0.1", "a-node-0-0.a": "10.2.0.9", "lo": "127.0.1.1", "six": "fd00::5"}


def lookup(host):
    """A name server of a few hosts; an address is its own."""
    if host == "localhost":
        return ["127.0.0.1"]
    if host.replace(".", "").isdecimal() or ":" in host:
        return [host]
    if host not in NAMES:
        raise OSError("no such host")
    return [NAMES[host]]


# The second of two tasks of `srun -n 2` on one node, and on two nodes, as SLURM has set them there.
SRUN = {
    "SLURM_JOB_ID": "8652", "SLURM_NTASKS": "2", "SLURM_NPROCS": "2", "SLURM_TASKS_PER_NODE": "2",
    "SLURM_STEP_ID": "1", "SLURM_STEP_NODELIST": "odin097", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NODEID": "0", "SLURM_PROCID": "1", "SLURM_LOCALID": "1",
}  # fmt: skip
SRUN_TWO = SRUN | {
    "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
    "SLURM_NODEID": "1", "SLURM_LOCALID": "0",
}  # fmt: skip
# A shell in an allocation of 8 tasks: an interactive step of one task, which SLURM_NTASKS does not know of.
INTERACTIVE = {
    "SLURM_JOB_ID": "71", "SLURM_NTASKS": "8", "SLURM_TASKS_PER_NODE": "8", "SLURM_STEP_ID": "4294967290",
    "SLURM_STEP_NODELIST": "node1", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_PTY_WIN_COL": "80",
    "SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_PTY_PORT": "35889",
}  # fmt: skip
# The script of an sbatch job, outside of srun.
BATCH = {
    "SLURM_JOB_ID": "200505", "SLURM_NTASKS": "4", "SLURM_NODEID": "0", "SLURM_PROCID": "0", "SLURM_LOCALID": "0",
    "SLURM_JOB_NODELIST": "gnode[10,20,25,37]", "SLURM_TASKS_PER_NODE": "1(x4)", "SLURM_GTIDS": "0",
}  # fmt: skip
OPEN_MPI = {  # Open MPI 5.0.11
    "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1", "PMIX_NAMESPACE": "prterun-node1-10755@1", "PMIX_RANK": "1",
}  # fmt: skip
OPEN_MPI_4 = {name: value for name, value in OPEN_MPI.items() if not name.startswith("PMIX")} | {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"
}
HYDRA = {  # MPICH 5.0.2
    "PMI_SIZE": "2", "PMI_RANK": "1", "PMI_FD": "9", "PMI_HOSTNAME": "x", "MPI_LOCALNRANKS": "2", "MPI_LOCALRANKID": "1"
}  # fmt: skip
APART = {"OMPI_COMM_WORLD_LOCAL_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}
ENV = {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "1", "JAX_COORDINATOR_ADDRESS": "10.0.0.4:8476"}
TRAINER = ENV | {
    "JAX_COORDINATOR_ADDRESS": "a-node-0-0.a:6666", "JAX_COORDINATOR_PORT": "6666", "JAX_DISTRIBUTED_BACKEND": "gloo",
    "JOB_COMPLETION_INDEX": "1",
}  # fmt: skip
JAXJOB = {
    "NUM_PROCESSES": "2", "PROCESS_ID": "1", "COORDINATOR_ADDRESS": "node1", "COORDINATOR_PORT": "6666",
    "PYTHONUNBUFFERED": "1",
}  # fmt: skip
TORCHRUN = {"PET_NNODES": "2", "PET_NODE_RANK": "1", "PET_MASTER_ADDR": "a-node-0-0.a", "PET_MASTER_PORT": "29400"}
JOBSET = {
    "JAX_NUM_PROCESSES": "2", "JOB_COMPLETION_INDEX": "1", "JAX_COORDINATOR_ADDRESS": "a-node-0-0.a:8476",
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
}  # fmt: skip
SKYPILOT = {
    "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.3.0.1\n10.3.0.2",
    "SKYPILOT_NUM_GPUS_PER_NODE": "8", "SKYPILOT_TASK_ID": "sky-2026-01-01-00-00-00-000000_cluster_1",
}  # fmt: skip
DSTACK = {
    "DSTACK_NODES_NUM": "2", "DSTACK_NODE_RANK": "1", "DSTACK_MASTER_NODE_IP": "10.4.0.1",
    "DSTACK_NODES_IPS": "10.4.0.1\n10.4.0.2", "DSTACK_GPUS_PER_NODE": "8", "DSTACK_RUN_NAME": "brave-eel-1",
}  # fmt: skip
RAY = {"RAY_TRAIN_WORLD_SIZE": "2", "RAY_TRAIN_WORLD_RANK": "1", "RAY_TRAIN_COORDINATOR": "10.5.0.1:41233"}

# launcher, variables, host of the coordinator, address it listens at, whether all processes are on one host
FOUND = {
    "srun": ("slurm", SRUN, "odin097", "10.1.0.97", True),
    "srun on two nodes": ("slurm", SRUN_TWO, "node1", "10.1.0.1", False),
    "srun with PMI": ("slurm", SRUN | {"PMI_SIZE": "2", "PMI_RANK": "1", "PMI_FD": "9"}, "odin097", "10.1.0.97", True),
    "mpirun": ("mpi", OPEN_MPI, "127.0.0.1", "127.0.0.1", True),
    "mpirun on two nodes": ("mpi", OPEN_MPI | APART, "node1", "10.1.0.1", False),
    "mpirun 4 on two nodes": ("mpi", OPEN_MPI_4 | APART, "10.96.0.1", "10.96.0.1", False),
    "mpirun in a job of SLURM": ("mpi", SRUN_TWO | {"SLURM_PROCID": "0"} | OPEN_MPI, "127.0.0.1", "127.0.0.1", True),
    "mpiexec": ("mpi", HYDRA, "127.0.0.1", "127.0.0.1", True),
    "mpiexec on two nodes": (
        "mpi", HYDRA | {"MPI_LOCALNRANKS": "1", "MPI_LOCALRANKID": "0", "JAX_COORDINATOR_ADDRESS": "node1:8476"},
        "node1", "10.1.0.1", False,
    ),
    "variables": ("env", ENV, "10.0.0.4", "10.0.0.4", None),
    "variables, IPv6": ("env", ENV | {"JAX_COORDINATOR_ADDRESS": "[fd00::5]:8476"}, "[fd00::5]", "[fd00::5]", None),
    "a TrainJob": ("kubeflow", TRAINER, "a-node-0-0.a", "10.2.0.9", False),
    "a JAXJob": ("kubeflow", JAXJOB, "node1", "10.1.0.1", False),
    "a JobSet": ("k8s", JOBSET, "a-node-0-0.a", "10.2.0.9", False),
    "SkyPilot": ("skypilot", SKYPILOT, "10.3.0.1", "10.3.0.1", False),
    "dstack": ("dstack", DSTACK, "10.4.0.1", "10.4.0.1", False),
    "Ray Train": ("ray", RAY, "10.5.0.1", "10.5.0.1", None),
}  # fmt: skip


@pytest.mark.parametrize("asked", ["auto", "by name"])
@pytest.mark.parametrize("name", FOUND)
def test_a_launcher_is_found_by_its_variables(name, asked):
    launcher, variables, host, address, together = FOUND[name]
    hosts = resolve(launcher if asked == "by name" else "auto", variables, lookup)
    assert hosts[:3] == (launcher, 2, 1)
    assert hosts.together == together
    at, port = hosts.coordinator.rsplit(":", 1)
    assert (at, hosts.bind) == (host, f"{address}:{port}")
    assert 1024 < int(port) < 65536


def test_the_trainers_runtime_for_torchrun_is_read_when_it_is_named():
    hosts = resolve("kubeflow", TORCHRUN, lookup)
    assert (hosts.process_count, hosts.process_index, hosts.bind.split(":")[0]) == (2, 1, "10.2.0.9")
    assert resolve("auto", TORCHRUN, lookup) == Hosts()  # they may be those of another program


RANKS = {
    "RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "10.0.0.4",
    "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "none",
}  # fmt: skip

STRAY = {
    "nothing": {},
    "ssh into a job": {"SLURM_JOB_ID": "8652", "SLURM_NTASKS": "2", "SLURM_JOB_NODELIST": "node[1-2]"},
    "a batch script": BATCH,
    "an interactive step": INTERACTIVE,
    "srun --pty of one task": INTERACTIVE | {"SLURM_NTASKS": "1", "SLURM_TASKS_PER_NODE": "1"},
    "srun --pty of four tasks": INTERACTIVE | {"SLURM_STEP_NUM_TASKS": "4"},
    "one task": SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},
    "a pod of an indexed job": {"JOB_COMPLETION_INDEX": "3", "KUBERNETES_SERVICE_HOST": "10.96.0.1"},
    "one node": DSTACK | {"DSTACK_NODES_NUM": "1", "DSTACK_NODE_RANK": "0"},
    "one process": {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"},
    "a TPU of one host": {"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"},
    "a proxy": {"https_proxy": "http://proxy:3128"},
    "torchrun of one process": RANKS | {"WORLD_SIZE": "1", "RANK": "0"},
    "a rank of something else": {"RANK": "first", "WORLD_SIZE": "4"},
}


@pytest.mark.parametrize("name", STRAY)
def test_a_part_of_the_variables_is_one_process(name):
    hosts = resolve("auto", STRAY[name], lookup)
    assert (hosts.process_count, hosts.process_index, hosts.coordinator) == (1, 0, None)


def test_none_is_one_process_whatever_the_variables_say():
    assert resolve("none", SRUN | ENV, lookup) == Hosts()


def test_a_tpu_pod_is_left_to_jax():
    hosts = resolve("auto", {"TPU_WORKER_HOSTNAMES": "t0,t1,t2,t3", "TPU_WORKER_ID": "2"}, lookup)
    assert hosts == Hosts("tpu", 4, 2)
    assert resolve("tpu", {}, lookup).launcher == "tpu"


REFUSED = {
    "env: no index": (
        "auto", {"JAX_NUM_PROCESSES": "2"},
        "JAX_PROCESS_ID is not set; set it to a whole number, or run one process with --dist none",
    ),
    "env: no count": ("auto", {"JAX_PROCESS_ID": "1"}, "JAX_NUM_PROCESSES is not set; set it to a whole number, or"),
    "env: an address alone": ("auto", {"JAX_COORDINATOR_ADDRESS": "a:1"}, "JAX_NUM_PROCESSES is not set"),
    "env: no address": (
        "env", {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"},
        "JAX_COORDINATOR_ADDRESS is not set; set it to HOST:PORT of process 0, or",
    ),
    "env: no number": ("env", ENV | {"JAX_NUM_PROCESSES": "two"}, "expected a whole number in JAX_NUM_PROCESSES, got "),
    "env: negative": ("env", ENV | {"JAX_PROCESS_ID": "-1"}, "expected a whole number in JAX_PROCESS_ID, got '-1'"),
    "env: none at all": ("env", ENV | {"JAX_NUM_PROCESSES": "0"}, "expected at least 1 in JAX_NUM_PROCESSES, got 0"),
    "env: index too high": (
        "env", ENV | {"JAX_PROCESS_ID": "2"},
        "JAX_PROCESS_ID is 2 and JAX_NUM_PROCESSES is 2, but indices go from 0 to 1; correct one of them",
    ),
    "env: no port": (
        "env", ENV | {"JAX_COORDINATOR_ADDRESS": "10.0.0.4"},
        "the coordinator '10.0.0.4' has no port; set JAX_COORDINATOR_ADDRESS=HOST:PORT, such as",
    ),
    "env: a bare IPv6 address": ("env", ENV | {"JAX_COORDINATOR_ADDRESS": "fd00::5"}, "'fd00::5' has no port"),
    "env: a port out of range": ("env", ENV | {"JAX_COORDINATOR_ADDRESS": "a:70000"}, "'a:70000' has no port"),
    "env: unknown host": (
        "env", ENV | {"JAX_PROCESS_ID": "0", "JAX_COORDINATOR_ADDRESS": "nowhere:1"},
        "env: the coordinator 'nowhere' has no address that this host knows; set JAX_COORDINATOR_ADDRESS=HOST:PORT to",
    ),
    "env: devices": ("env", ENV | {"JAX_LOCAL_DEVICE_IDS": "0;1"}, "expected indices such as 0,1 in JAX_LOCAL_"),
    "a name of 127.x": (
        "env", ENV | {"JAX_COORDINATOR_ADDRESS": "lo:8476"},
        "env: the coordinator 'lo' is 127.0.1.1, which every host takes for itself; set JAX_COORDINATOR_ADDRESS=HOST:",
    ),
    "127.x on several nodes": ("dstack", DSTACK | {"DSTACK_MASTER_NODE_IP": "127.0.0.1"}, "'127.0.0.1' is 127.0.0.1"),
    "slurm: no step": ("slurm", BATCH, "--dist slurm: SLURM_STEP_NODELIST is not set, so this is no task of a "),
    "slurm: a terminal": ("slurm", INTERACTIVE | {"SLURM_STEP_NUM_TASKS": "4"}, "--dist slurm: srun --pty gives "),
    "slurm: 5 GPUs": (
        "slurm", SRUN | {"SLURM_GPUS_ON_NODE": "5"},
        "5 GPUs cannot be divided among the 2 processes of a host; start a number that divides 5, or set JAX_LOCAL_",
    ),
    "mpi: no host": (
        "mpi", HYDRA | {"MPI_LOCALNRANKS": "1", "MPI_LOCALRANKID": "0"},
        "mpi: no variable names the host of process 0; give it to every process, as in mpirun -x JAX_COORDINATOR_ADDR",
    ),
    "k8s: no count": ("k8s", {"JOB_COMPLETION_INDEX": "1"}, "JAX_NUM_PROCESSES is not set"),
    "kubeflow: no port": ("kubeflow", {k: v for k, v in JAXJOB.items() if "PORT" not in k}, "COORDINATOR_PORT is not"),
    "ray: no worker": ("ray", {}, "--dist ray: this is no worker of Ray Train; call jaxprop.start_processes() in the"),
    "skypilot: a node is missing": (
        "skypilot", SKYPILOT | {"SKYPILOT_NODE_IPS": "10.3.0.1"},
        "SKYPILOT_NUM_NODES is 2 and SKYPILOT_NODE_IPS lists 1; set neither by hand",
    ),
    "two that differ": (
        "auto", SRUN | ENV | {"JAX_NUM_PROCESSES": "4"},
        "env says that this is process 1 of 4, and slurm says that this is process 1 of 2; name the one that "
        "started it: --dist env, or --dist slurm",
    ),
    "torchrun": (
        "auto", RANKS,
        "RANK and WORLD_SIZE, which torchrun and PyTorchJob set, say that this is process 1 of 4; set "
        "JAX_COORDINATOR_ADDRESS=HOST:PORT, with another port than MASTER_PORT, JAX_NUM_PROCESSES=4 and "
        "JAX_PROCESS_ID=1 and use --dist env, or run one process with --dist none",
    ),
    "torchrun in tasks of srun": (
        "auto", SRUN | RANKS, "process 1 of 4, and slurm says that this is process 1 of 2; set JAX_COORDINATOR_",
    ),
    "every address": (
        "auto", ENV | {"JAX_COORDINATOR_ADDRESS": "0.0.0.0:8476"},
        "env: the coordinator '0.0.0.0' stands for every address of a host and names none that the others reach; set "
        "JAX_COORDINATOR_ADDRESS=HOST:PORT to the host of process 0",
    ),
    "every address, as IPv6": ("auto", ENV | {"JAX_COORDINATOR_ADDRESS": "[::]:8476"}, "the coordinator '::' stands"),
    "tpu: slices": ("auto", {"MEGASCALE_NUM_SLICES": "two"}, "expected a whole number in MEGASCALE_NUM_SLICES, got 't"),
    "tpu: index": (
        "auto", {"TPU_WORKER_HOSTNAMES": "t0,t1", "TPU_WORKER_ID": "t1"}, "expected a whole number in TPU_WORKER_ID",
    ),
    "a count of thousands of digits": ("auto", ENV | {"JAX_NUM_PROCESSES": "1" * 5000}, "expected a whole number in"),
    "a port of thousands of digits": (
        "auto", ENV | {"JAX_COORDINATOR_ADDRESS": f"10.0.0.4:{'1' * 5000}"}, "has no port; set JAX_COORDINATOR_ADDRESS",
    ),
    "a misspelled one": ("slrum", {}, "--dist: unknown launcher 'slrum'; did you mean 'slurm'?"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_right_is_one_sentence(name):
    launcher, variables, sentence = REFUSED[name]
    with pytest.raises(UsageError) as refused:
        resolve(launcher, variables, lookup)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("name", ["grpc_proxy", "https_proxy", "http_proxy"])
def test_a_proxy_is_refused_unless_the_coordinator_is_excepted(name):
    proxied = ENV | {name: "http://proxy:3128"}
    with pytest.raises(
        UsageError, match=rf"^{name} is set and no_proxy does not name the coordinator '10\.0\.0\.4', .*"
    ):
        resolve("auto", proxied, lookup)
    with pytest.raises(UsageError, match=rf"set no_proxy=localhost,10\.0\.0\.4, or unset {name}$"):
        resolve("auto", proxied | {"no_proxy": "localhost"}, lookup)
    for rule in ("10.0.0.4", "localhost, 10.0.0.0/8"):
        assert resolve("auto", proxied | {"no_proxy": rule}, lookup).process_count == 2
    pod = TRAINER | {name: "http://proxy:3128"}
    assert resolve("auto", pod | {"no_proxy": ".a"}, lookup).process_count == 2
    # Neither gRPC nor JAX's connection look at these.
    assert resolve("auto", ENV | {name.upper(): "http://proxy:3128"}, lookup).process_count == 2


def test_localhost_is_taken_at_its_word_where_the_launcher_does_not_say_who_is_where():
    for name in ("localhost", "127.0.0.1"):
        hosts = resolve("env", ENV | {"JAX_COORDINATOR_ADDRESS": f"{name}:8476"}, lookup)
        assert hosts.bind == "127.0.0.1:8476"


def test_an_address_of_ones_own_goes_before_the_launchers():
    own = {"JAX_COORDINATOR_ADDRESS": "10.9.9.9:99", "JAX_COORDINATOR_BIND_ADDRESS": "0.0.0.0:99"}
    hosts = resolve("dstack", DSTACK | own, lookup)
    assert (hosts.coordinator, hosts.bind) == ("10.9.9.9:99", "0.0.0.0:99")
    assert resolve("slurm", SRUN | {"JAX_COORDINATOR_PORT": "1234"}, lookup).coordinator == "odin097:1234"


def test_all_processes_of_a_job_choose_one_port_and_other_jobs_others():
    def port(variables):
        return resolve("auto", variables, lookup).coordinator.rsplit(":")[-1]

    for variables, index, job in [
        (SRUN, "SLURM_PROCID", {"SLURM_JOB_ID": "8653"}),
        (OPEN_MPI, "OMPI_COMM_WORLD_RANK", {"PMIX_NAMESPACE": "prterun-node1-10756@1"}),
        (SKYPILOT, "SKYPILOT_NODE_RANK", {"SKYPILOT_TASK_ID": "sky-2026_cluster_2"}),
        (DSTACK, "DSTACK_NODE_RANK", {"DSTACK_RUN_NAME": "brave-eel-2"}),
    ]:
        assert port(variables) == port(variables | {index: "0"}) != port(variables | job)


@pytest.mark.parametrize(
    ("variables", "devices"),
    [
        (SRUN, None),  # no GPUs were asked for
        (SRUN_TWO | {"SLURM_GPUS_ON_NODE": "8"}, None),  # one task a node: all eight, not one
        (SRUN | {"SLURM_GPUS_ON_NODE": "8"}, (4, 5, 6, 7)),  # both tasks see all
        (SRUN | {"SLURM_GPUS_ON_NODE": "8", "CUDA_VISIBLE_DEVICES": "0,1"}, (1,)),
        (SRUN | {"SLURM_GPUS_ON_NODE": "8", "SLURM_GPUS_PER_TASK": "4"}, None),  # SLURM has bound them
        (SRUN | {"SLURM_GPUS_ON_NODE": "2", "SLURM_GPU_BIND": "single:1"}, None),
        (SRUN | {"SLURM_GPUS_ON_NODE": "2", "SLURM_GPU_BIND": "none"}, (1,)),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "1,2(x2)", "SLURM_GPUS_ON_NODE": "2"}, None),
        (SRUN | {"SLURM_STEP_TASKS_PER_NODE": "1,2(x2)", "SLURM_NODEID": "2", "SLURM_GPUS_ON_NODE": "2"}, (1,)),
        (OPEN_MPI, (1,)),
        (OPEN_MPI | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}, (2, 3)),
        (OPEN_MPI | {"CUDA_VISIBLE_DEVICES": "1"}, None),  # a wrapper script has bound it
        (OPEN_MPI | APART, None),
        (ENV | {"JAX_LOCAL_DEVICE_IDS": "2,3"}, (2, 3)),
        (SRUN | {"SLURM_GPUS_ON_NODE": "8", "JAX_LOCAL_DEVICE_IDS": "0"}, (0,)),
    ],
)
def test_processes_of_one_host_share_its_gpus(variables, devices):
    assert resolve("auto", variables, lookup).local_devices == devices


@pytest.mark.parametrize(
    ("names", "first"),
    [
        ("node1", "node1"), ("node1,node2", "node1"), ("node[1-15],b", "node1"), ("node[001,007-015]", "node001"),
        ("rack2-[03,5]-ib,x", "rack2-03-ib"),
    ],
)  # fmt: skip
def test_the_first_node_of_a_list(names, first):
    hosts = resolve("slurm", SRUN_TWO | {"SLURM_STEP_NODELIST": names}, lambda host: ["10.0.0.1"])
    assert hosts.coordinator.split(":")[0] == first


def test_every_launcher_can_be_named():
    assert set(LAUNCHERS) == {"env", "slurm", "mpi", "k8s", "kubeflow", "tpu", "ray", "skypilot", "dstack"}


def test_variables_of_torchrun_that_agree_with_a_launchers_are_no_matter():
    assert resolve("auto", SRUN | RANKS | {"WORLD_SIZE": "2"}, lookup).launcher == "slurm"
    assert resolve("env", ENV | RANKS, lookup).launcher == "env"
