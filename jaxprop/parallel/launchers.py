"""Which launcher has started this process, and what it says about the others: read from environment variables."""

from __future__ import annotations

import ipaddress
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from jaxprop.errors import UsageError, one_of

Environment = Mapping[str, str]
Lookup = Callable[[str], Sequence[str]]  # the addresses of a host; raises OSError where it has none

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
PORT, BIND, DEVICES = "JAX_COORDINATOR_PORT", "JAX_COORDINATOR_BIND_ADDRESS", "JAX_LOCAL_DEVICE_IDS"
# Those that gRPC reads, in its order; it reads no upper-case names.
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")
NO_PROXY = ("no_grpc_proxy", "no_proxy")
# With one of these, SLURM shows each task the GPUs that are its own.
_BOUND = ("SLURM_GPUS_PER_TASK", "SLURM_NTASKS_PER_GPU", "SLURM_GPU_BIND")
_JAXJOB = ("NUM_PROCESSES", "PROCESS_ID", "COORDINATOR_ADDRESS", "COORDINATOR_PORT")
_TORCH = ("RANK", "WORLD_SIZE")
_STEP = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_LOCALID")


class Hosts(NamedTuple):
    """The processes of a run, as their launcher describes them.

    Args:
      launcher: its name; `none` where none was found.
      process_count: number of processes.
      process_index: which of them this is.
      coordinator: `host:port` of process 0; None for one process, and where JAX finds it by itself.
      bind: `address:port` that process 0 listens at.
      local_devices: which of the host's accelerators are this process's; None: all that it sees.
      together: whether all processes are on this host; None where the launcher does not say.

    Example:
      >>> Hosts().process_count
      1
    """

    launcher: str = "none"
    process_count: int = 1
    process_index: int = 0
    coordinator: str | None = None
    bind: str | None = None
    local_devices: tuple[int, ...] | None = None
    together: bool | None = None


def resolve(launcher: str, environ: Environment, lookup: Lookup) -> Hosts:
    """Reads what a launcher says about the processes of a run.

    Args:
      launcher: a key of `LAUNCHERS`; `auto`, which takes the one whose variables are set; or `none`, one process.
      environ: the environment variables.
      lookup: the addresses of a host.

    Returns:
      The processes. One process where `auto` finds no launcher, or one that has started a single process.

    Raises:
      UsageError: a variable is missing, is no number, is out of range or contradicts another one, or the coordinator
        cannot be reached as it is named.

    Example:
      >>> variables = {"DSTACK_NODES_NUM": "2", "DSTACK_NODE_RANK": "1", "DSTACK_MASTER_NODE_IP": "10.0.0.4"}
      >>> resolve("auto", variables | {"JAX_COORDINATOR_PORT": "8476"}, lambda host: [host])[:5]
      ('dstack', 2, 1, '10.0.0.4:8476', '10.0.0.4:8476')
    """
    if launcher == "none":
        return Hosts()
    if launcher == "auto":
        hosts = _found(environ)
    elif launcher in LAUNCHERS:
        hosts = LAUNCHERS[launcher](environ)
    else:
        raise UsageError(f"--dist: {one_of(launcher, ['auto', 'none', *LAUNCHERS], 'launcher')}")
    if hosts.launcher == "tpu":
        return hosts
    if hosts.process_count == 1:
        return Hosts(hosts.launcher)
    return _reachable(hosts, environ, lookup)


def _found(environ: Environment) -> Hosts:
    """The one launcher whose variables are set; several that say different things are refused."""
    found = [LAUNCHERS[name](environ) for name, is_there in _SIGNS.items() if is_there(environ)]
    several = [hosts for hosts in found if hosts.process_count > 1]
    for other in several[1:]:
        first = several[0]
        if (other.process_count, other.process_index) != (first.process_count, first.process_index):
            raise UsageError(
                f"{_said(first)}, and {_said(other)}; name the one that started it: --dist {first.launcher}, or "
                f"--dist {other.launcher}"
            )
    _refuse_torch(environ, several)
    if not found and environ.get(ADDRESS):
        return _env(environ)  # an address alone is a half of what was meant; which names the other half
    return several[0] if several else found[0] if found else Hosts()


def _refuse_torch(environ: Environment, several: Sequence[Hosts]) -> None:
    """Refuses what torchrun and its like have started, since each process would train a model of its own.

    Their port is taken by a store of their own, so that JAX cannot have it.
    """
    if not all(_is_number(environ.get(name, "")) for name in _TORCH) or int(environ["WORLD_SIZE"]) < 2:
        return
    count, index = int(environ["WORLD_SIZE"]), int(environ["RANK"])
    if all((count, index) != (hosts.process_count, hosts.process_index) for hosts in several):
        also = f", and {_said(several[0])}" if several else ""
        raise UsageError(
            f"RANK and WORLD_SIZE, which torchrun and PyTorchJob set, say that this is process {index} of {count}{also}"
            f"; set {ADDRESS}=HOST:PORT, with another port than MASTER_PORT, {COUNT}={count} and {INDEX}={index} and "
            "use --dist env, or run one process with --dist none"
        )


def _said(hosts: Hosts) -> str:
    return f"{hosts.launcher} says that this is process {hosts.process_index} of {hosts.process_count}"


# -- one function a launcher ----------------------------------------------------------------------


def _env(environ: Environment) -> Hosts:
    count, index = _numbers(environ, COUNT, INDEX)
    return Hosts("env", count, index, _needed(environ, ADDRESS, "HOST:PORT of process 0") if count > 1 else None)


def _kubeflow(environ: Environment) -> Hosts:
    if COUNT not in environ and "NUM_PROCESSES" in environ:  # a JAXJob of the training operator 1
        count, index = _numbers(environ, "NUM_PROCESSES", "PROCESS_ID")
        host = _needed(environ, "COORDINATOR_ADDRESS", "the name of the first worker")
        port = _needed(environ, "COORDINATOR_PORT", "the port of the first worker")
        return Hosts("kubeflow", count, index, f"{host}:{port}", together=False)
    if COUNT not in environ and "PET_NNODES" in environ:  # a runtime of the trainer that was made for torchrun
        count, index = _numbers(environ, "PET_NNODES", "PET_NODE_RANK")
        host = _needed(environ, "PET_MASTER_ADDR", "the name of the first node")
        return Hosts(
            "kubeflow", count, index, _with_port(host, environ, environ.get("PET_MASTER_PORT")), together=False
        )
    return _env(environ)._replace(launcher="kubeflow", together=False)


def _k8s(environ: Environment) -> Hosts:
    """A JobSet or an Indexed Job, which sets JOB_COMPLETION_INDEX; the manifest sets the two others."""
    index = INDEX if INDEX in environ else "JOB_COMPLETION_INDEX"
    count, number = _numbers(environ, COUNT, index)
    address = _needed(environ, ADDRESS, "the name of the first pod, such as JOBSET-workers-0-0.JOBSET")
    return Hosts("k8s", count, number, address, together=False)


def _slurm(environ: Environment) -> Hosts:
    missing = [name for name in _STEP if name not in environ]
    if missing:
        raise UsageError(f"--dist slurm: {missing[0]} is not set, so this is no task of a job step; start it with srun")
    if "SLURM_PTY_PORT" in environ and environ["SLURM_STEP_NUM_TASKS"] != "1":
        raise UsageError("--dist slurm: srun --pty gives its terminal to one task of several; start it with srun alone")
    count, index = _numbers(environ, "SLURM_STEP_NUM_TASKS", "SLURM_PROCID")
    here, local = _tasks_here(environ), _number(environ, "SLURM_LOCALID")
    bound = any(environ.get(name, "none") not in ("", "none") for name in _BOUND)
    gpus = _listed(environ) or (_number(environ, "SLURM_GPUS_ON_NODE") if environ.get("SLURM_GPUS_ON_NODE") else 0)
    address = _with_port(_first_node(environ["SLURM_STEP_NODELIST"]), environ, environ["SLURM_JOB_ID"])
    devices = None if bound else _share(local, here, gpus)
    return Hosts("slurm", count, index, address, local_devices=devices, together=here == count)


def _mpi(environ: Environment) -> Hosts:
    """Open MPI, MPICH, Intel MPI and what else speaks PMI. Only the former name a host, and only that of mpirun."""
    if "OMPI_COMM_WORLD_SIZE" in environ:
        count, index = _numbers(environ, "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
        names = ("OMPI_COMM_WORLD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
    else:
        count, index = _numbers(environ, "PMI_SIZE", "PMI_RANK")
        names = ("MPI_LOCALNRANKS", "MPI_LOCALRANKID")
    here, local = _numbers(environ, *names) if names[0] in environ else (None, None)
    job = environ.get("PMIX_NAMESPACE") or environ.get("OMPI_MCA_orte_hnp_uri") or environ.get("PMI_JOBID", "")
    if here == count:
        host: str | None = "127.0.0.1"
    else:
        started = re.match(r"prterun-(.+)-\d+@\d+$", job) or re.search(r"tcp6?://\[?([^,\]]+?)(?:[,\]]|:\d+$)", job)
        host = started[1] if started else None
    if host is None and ADDRESS not in environ and count > 1:
        raise UsageError(
            f"mpi: no variable names the host of process 0; give it to every process, as in mpirun -x {ADDRESS}="
            f"HOST:PORT (Open MPI) or mpiexec -genv {ADDRESS} HOST:PORT (MPICH, Intel MPI)"
        )
    seen = _listed(environ)
    devices = _share(local, here, seen or here) if here and local is not None else None
    address = _with_port(host, environ, job) if host else environ.get(ADDRESS)
    return Hosts("mpi", count, index, address, local_devices=devices, together=here == count if here else None)


def _tpu(environ: Environment) -> Hosts:
    """JAX asks the pod's metadata; the count says only whether there is more than one."""
    names = [name for name in environ.get("TPU_WORKER_HOSTNAMES", "").split(",") if name]
    slices = _number(environ, "MEGASCALE_NUM_SLICES") if environ.get("MEGASCALE_NUM_SLICES") else 1
    index = _number(environ, "TPU_WORKER_ID") if environ.get("TPU_WORKER_ID") else 0
    return Hosts("tpu", max(len(names), slices, 1), index)


def _ray(environ: Environment) -> Hosts:
    """The variables are set by `jaxprop.start_processes`, from the context of Ray Train."""
    if "RAY_TRAIN_WORLD_SIZE" not in environ:
        raise UsageError(
            "--dist ray: this is no worker of Ray Train; call jaxprop.start_processes() in the function that "
            "JaxTrainer runs, as scripts/launch/ray_train.py does"
        )
    count, index = _numbers(environ, "RAY_TRAIN_WORLD_SIZE", "RAY_TRAIN_WORLD_RANK")
    return Hosts("ray", count, index, environ.get("RAY_TRAIN_COORDINATOR"))


def _skypilot(environ: Environment) -> Hosts:
    count, index = _numbers(environ, "SKYPILOT_NUM_NODES", "SKYPILOT_NODE_RANK")
    nodes = _needed(environ, "SKYPILOT_NODE_IPS", "the addresses of the nodes, one a line").split()
    if len(nodes) != count:
        raise UsageError(
            f"SKYPILOT_NUM_NODES is {count} and SKYPILOT_NODE_IPS lists {len(nodes)}; set neither by hand in the task"
        )
    return Hosts(
        "skypilot", count, index, _with_port(nodes[0], environ, environ.get("SKYPILOT_TASK_ID", "")), together=False
    )


def _dstack(environ: Environment) -> Hosts:
    count, index = _numbers(environ, "DSTACK_NODES_NUM", "DSTACK_NODE_RANK")
    host = _needed(environ, "DSTACK_MASTER_NODE_IP", "the address of node 0")
    return Hosts("dstack", count, index, _with_port(host, environ, environ.get("DSTACK_RUN_NAME", "")), together=False)


LAUNCHERS: dict[str, Callable[[Environment], Hosts]] = {
    "env": _env,
    "kubeflow": _kubeflow,
    "k8s": _k8s,
    "ray": _ray,
    "mpi": _mpi,
    "slurm": _slurm,
    "skypilot": _skypilot,
    "dstack": _dstack,
    "tpu": _tpu,
}


def _is_mpi(environ: Environment) -> bool:
    # srun, too, may speak PMI; then SLURM's own variables say more.
    ours = "OMPI_COMM_WORLD_SIZE" in environ or {"PMI_SIZE", "MPI_LOCALNRANKS"} <= set(environ)
    return ours or ({"PMI_SIZE", "PMI_RANK"} <= set(environ) and not _is_slurm(environ))


def _is_slurm(environ: Environment) -> bool:
    """Whether this is a task that srun has started.

    A shell in a batch job, in an allocation or behind ssh has a part of the variables, and an interactive one all of
    them, of a step of its own. The daemons of another launcher are steps, too, and their children inherit all.
    """
    inherited = {"OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS"} & set(environ)
    return all(name in environ for name in _STEP) and "SLURM_PTY_PORT" not in environ and not inherited


def _is_jax(environ: Environment, launcher: str) -> bool:
    """Whether JAX's own variables are set, as they are by Kubeflow, in a manifest for Kubernetes, or by hand."""
    if COUNT in environ and "JAX_DISTRIBUTED_BACKEND" in environ:
        return launcher == "kubeflow"
    if COUNT in environ and "JOB_COMPLETION_INDEX" in environ and INDEX not in environ:
        return launcher == "k8s"
    return launcher == "env" and (COUNT in environ or INDEX in environ)


# What makes `auto` believe in a launcher. An index that Kubernetes gives to a job's pods says nothing by itself.
_SIGNS: dict[str, Callable[[Environment], bool]] = {
    "env": lambda e: _is_jax(e, "env"),
    "kubeflow": lambda e: _is_jax(e, "kubeflow") or all(name in e for name in _JAXJOB),
    "k8s": lambda e: _is_jax(e, "k8s"),
    "ray": lambda e: "RAY_TRAIN_WORLD_SIZE" in e,
    "mpi": _is_mpi,
    "slurm": _is_slurm,
    "skypilot": lambda e: "SKYPILOT_NUM_NODES" in e,
    "dstack": lambda e: "DSTACK_NODES_NUM" in e,
    "tpu": lambda e: "," in e.get("TPU_WORKER_HOSTNAMES", "") or "MEGASCALE_NUM_SLICES" in e,
}


# -- addresses ------------------------------------------------------------------------------------


def _reachable(hosts: Hosts, environ: Environment, lookup: Lookup) -> Hosts:
    """Completes the coordinator's address, and refuses one that the other processes would wait for in vain."""
    coordinator = environ.get(ADDRESS) or hosts.coordinator
    if coordinator is None:
        return hosts  # Ray has started JAX already
    host, port = _host_and_port(coordinator, environ.get(PORT))
    coordinator = _joined(host, port)
    try:
        found = list(lookup(host))
    except OSError:
        found = []
    if not found and hosts.process_index == 0 and BIND not in environ:
        raise UsageError(
            f"{hosts.launcher}: the coordinator {host!r} has no address that this host knows; set {ADDRESS}=HOST:PORT "
            "to a name or address of the host of process 0"
        )
    if any(ipaddress.ip_address(address.partition("%")[0]).is_unspecified for address in found):
        raise UsageError(
            f"{hosts.launcher}: the coordinator {host!r} stands for every address of a host and names none that the "
            f"others reach; set {ADDRESS}=HOST:PORT to the host of process 0"
        )
    literal = host == "localhost" or _is_loopback(host)
    if any(map(_is_loopback, found)) and not (hosts.together or (hosts.together is None and literal)):
        raise UsageError(
            f"{hosts.launcher}: the coordinator {host!r} is {found[0]}, which every host takes for itself; set "
            f"{ADDRESS}=HOST:PORT to an address of the host of process 0 that the others reach"
        )
    _refuse_proxy(environ, host, found)
    bind = environ.get(BIND) or (_joined(found[0], port) if found else None)
    return hosts._replace(coordinator=coordinator, bind=bind, local_devices=_devices(environ) or hosts.local_devices)


def _refuse_proxy(environ: Environment, host: str, found: Sequence[str]) -> None:
    proxy = next((name for name in PROXIES if environ.get(name)), None)
    if proxy is None:
        return
    excepted = next((environ[name] for name in NO_PROXY if environ.get(name)), "")
    if any(_is_excepted(name, rule.strip()) for rule in excepted.split(",") for name in (host, *found)):
        return
    raise UsageError(
        f"{proxy} is set and no_proxy does not name the coordinator {host!r}, so that the processes would wait for "
        f"each other through the proxy, in vain; set "
        f"no_proxy={','.join(filter(None, (excepted, host)))}, or unset {proxy}"
    )


def _is_excepted(name: str, rule: str) -> bool:
    if "/" in rule:
        try:
            return ipaddress.ip_address(name) in ipaddress.ip_network(rule, strict=False)
        except ValueError:
            return False
    return bool(rule) and (name == rule or name.endswith(rule if rule.startswith(".") else f".{rule}"))


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _host_and_port(address: str, port: str | None) -> tuple[str, int]:
    host, colon, given = address.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        host, given = address, port or ""
    if not _is_number(given) or not 0 < int(given) < 65536 or not host:
        raise UsageError(f"the coordinator {address!r} has no port; set {ADDRESS}=HOST:PORT, such as 10.0.0.4:8476")
    return host.strip("[]"), int(given)


def _with_port(host: str, environ: Environment, job: str | None) -> str:
    """Adds a port, the same in all processes of a job: 4,096 of them lie above the ports that systems hand out."""
    job = job or ""
    number = int(job) if job.isdecimal() else zlib.crc32(job.encode())
    return _joined(host, environ.get(PORT) or 65535 - 4096 + 1 + number % 4096)


def _joined(host: str, port: int | str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


# -- variables ------------------------------------------------------------------------------------


def _needed(environ: Environment, name: str, what: str) -> str:
    if not environ.get(name):
        raise UsageError(f"{name} is not set; set it to {what}, or run one process with --dist none")
    return environ[name]


def _number(environ: Environment, name: str) -> int:
    value = _needed(environ, name, "a whole number")
    if not _is_number(value.strip()):
        raise UsageError(
            f"expected a whole number in {name}, got {value[:40]!r}; correct it, or run one process with --dist none"
        )
    return int(value)


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) < 19  # Python refuses to read one of thousands of digits


def _numbers(environ: Environment, count: str, index: str) -> tuple[int, int]:
    many, which = _number(environ, count), _number(environ, index)
    if many < 1:
        raise UsageError(f"expected at least 1 in {count}, got {many}; set it to the number of processes")
    if which >= many:
        raise UsageError(
            f"{index} is {which} and {count} is {many}, but indices go from 0 to {many - 1}; correct one of them"
        )
    return many, which


def _first_node(names: str) -> str:
    """The first of `node001`, `node001,host2`, `node[001-015],host2` or `node[001,007-015]-ib`."""
    found = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,\[]*))?", names)
    if found is None:
        raise UsageError(f"SLURM_STEP_NODELIST is {names!r}, which names no node; set {ADDRESS}=HOST:PORT")
    return "".join(part or "" for part in found.groups())


def _tasks_here(environ: Environment) -> int:
    """Tasks of the step on this node, from `2(x3),1`: three nodes with two each, and one with one."""
    nodes: list[int] = []
    for part in environ.get("SLURM_STEP_TASKS_PER_NODE", "1").split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        nodes += [int(found[1])] * int(found[2] or 1) if found else [1]
    node = environ.get("SLURM_NODEID", "0")
    return nodes[min(int(node) if node.isdecimal() else 0, len(nodes) - 1)]


def _listed(environ: Environment) -> int:
    """How many GPUs the process is shown, where it is shown certain ones; else 0."""
    shown = environ.get("CUDA_VISIBLE_DEVICES") or environ.get("ROCR_VISIBLE_DEVICES") or ""
    return len([one for one in shown.split(",") if one])


def _share(local: int | None, here: int | None, seen: int) -> tuple[int, ...] | None:
    """This process's part of the GPUs that all processes of a host see.

    A process that is alone, or sees fewer than there are processes since its launcher has given each its own, takes all
    that it sees.
    """
    if local is None or not here or here == 1 or seen < here:
        return None
    if seen % here:
        raise UsageError(
            f"{seen} GPUs cannot be divided among the {here} processes of a host; start a number that divides "
            f"{seen}, or set {DEVICES} for each process"
        )
    each = seen // here
    return tuple(range(local * each, (local + 1) * each))


def _devices(environ: Environment) -> tuple[int, ...] | None:
    given = environ.get(DEVICES)
    if not given:
        return None
    if not re.fullmatch(r"\d+(,\d+)*", given):
        raise UsageError(f"expected indices such as 0,1 in {DEVICES}, got {given!r}")
    return tuple(map(int, given.split(",")))
