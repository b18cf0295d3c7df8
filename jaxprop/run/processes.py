"""A run of several processes, from the wait for each other to the end of all."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from jaxprop.code.modules import told
from jaxprop.errors import EXIT_RUNTIME, EXIT_SIGINT, JaxpropError, UsageError
from jaxprop.parallel.launchers import Hosts, resolve
from jaxprop.sinks.streams import speak_as, tell

if TYPE_CHECKING:
    from jaxprop.parallel.peers import Peers

# Seconds, as environment variables: neither is a part of what a run computes.
WAIT, HEARTBEAT = "JAXPROP_WAIT_SECONDS", "JAXPROP_HEARTBEAT_SECONDS"
DEFAULTS = {WAIT: 300.0, HEARTBEAT: 10.0}
_connected: list[Peers] = []  # the one connection there may be
DNS_SECONDS = 30.0  # that the name of a pod may take to be known


@contextlib.contextmanager
def start_processes(launcher: str = "auto") -> Iterator[Hosts]:
    """Joins this process with those that a launcher has started beside it, for the length of a `with` block.

    It must come before anything that touches a device. Inside, `jax.devices()` are those of all processes. An error of
    one process ends all of them with a message that names it; at the end of the block they wait for each other.

    Args:
      launcher: `auto`, which finds the launcher by its environment variables and is one process where there is none;
        `env`, `slurm`, `mpi`, `k8s`, `kubeflow`, `tpu`, `ray`, `skypilot` or `dstack`; or `none`.

    Yields:
      What the launcher says: its name, the number of processes, which one this is, and the coordinator.

    Raises:
      UsageError: the launcher's variables are missing or contradict each other, or the coordinator cannot be reached.
      PeerError: another process has failed.

    Example:
      >>> with start_processes("none") as hosts:
      ...     hosts.process_count
      1

    Reference: https://docs.jax.dev/en/latest/multi_process.html
    """
    environ = dict(os.environ)
    limits = {name: _seconds(environ, name) for name in DEFAULTS}
    with contextlib.ExitStack() as speaking:
        hosts = _joined() or _resolved(launcher, environ)
        if hosts.launcher != "tpu" and hosts.process_count == 1:
            yield hosts
            return
        # Only processes that run together have to wait for jax here.
        from jaxprop.parallel.peers import Peers

        speaking.callback(speak_as, "")
        _name(hosts)
        peers = Peers(hosts, tell, limits[WAIT], limits[HEARTBEAT])
        _name(hosts := hosts._replace(process_count=peers.count, process_index=peers.index))
        _connected.append(peers)
        try:
            with failing_together():
                yield hosts
                peers.end()
        except BaseException as error:
            speaking.pop_all()  # whoever reports the error does so in this process's name
            peers.fail(_failure(error)[1])
            raise
        finally:
            _connected.clear()


@contextlib.contextmanager
def failing_together() -> Iterator[None]:
    """Tells the other processes at once of an error in a `with` block, or names the peer whose failure it comes from.

    It belongs inside of whatever may wait for the peers when it is closed. For one process it does nothing.

    Raises:
      PeerError: a peer has failed, and what was raised is a consequence.
    """
    try:
        yield
    except BaseException as error:
        if not _connected:
            raise
        lost = _connected[0].explain(error)
        _connected[0].announce(*_failure(lost or error))
        if lost is None or lost is error:
            raise
        raise lost from error


def _joined() -> Hosts | None:
    """The processes that the caller has connected by itself, as Ray does on TPUs."""
    if "jax" not in sys.modules:
        return None
    from jaxprop.parallel.hosts import process_count, process_index

    return Hosts("jax", process_count(), process_index()) if process_count() > 1 else None


def _resolved(launcher: str, environ: Mapping[str, str]) -> Hosts:
    from jaxprop.parallel.peers import addresses

    environ = {**environ, **_of_ray(launcher)}
    patient = "KUBERNETES_SERVICE_HOST" in environ
    return resolve(launcher, environ, partial(addresses, patience=DNS_SECONDS if patient else 0.0))


def _name(hosts: Hosts) -> None:
    """Only process 0 writes without a name: what it says is about the run."""
    of = f"process {hosts.process_index} of {hosts.process_count} on {socket.gethostname()}"
    speak_as(of if hosts.process_index else "")


def _failure(error: BaseException) -> tuple[str, int]:
    if isinstance(error, KeyboardInterrupt):
        return "it was interrupted", EXIT_SIGINT
    if isinstance(error, JaxpropError):
        return str(error), error.exit_code
    if isinstance(error, SystemExit):
        return "it left", error.code if isinstance(error.code, int) and error.code else EXIT_RUNTIME
    return told(error), EXIT_RUNTIME


def _seconds(environ: Mapping[str, str], name: str) -> float:
    value = environ.get(name) or str(DEFAULTS[name])
    with contextlib.suppress(ValueError):
        if 2 <= float(value) <= 86400:
            return float(value)
    raise UsageError(f"expected seconds from 2 to 86400 in {name}, got {value!r}")


def _of_ray(launcher: str) -> dict[str, str]:
    """What the context of a worker of Ray Train says, as variables; Ray sets none of its own for JAX."""
    if "ray.train" not in sys.modules or launcher not in ("auto", "ray"):
        return {}
    train = sys.modules["ray.train"]
    try:
        context = train.get_context()
        count, index = context.get_world_size(), context.get_world_rank()
    except Exception:  # ray has several errors for a context that is not there
        return {}
    if not count or count == 1:
        return {}
    from ray.train.collective import broadcast_from_rank_zero

    mine = None
    if index == 0:
        import ray.util

        with socket.socket() as free:
            free.bind(("", 0))
            mine = f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"
    return {
        "RAY_TRAIN_WORLD_SIZE": str(count), "RAY_TRAIN_WORLD_RANK": str(index),
        "RAY_TRAIN_COORDINATOR": broadcast_from_rank_zero(mine),
    }  # fmt: skip
