"""The connection of a run's processes, from the wait for each other to the end, and what becomes of one that fails."""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from jaxprop.errors import EXIT_RUNTIME, JaxpropError, UsageError
from jaxprop.parallel import hosts as kv
from jaxprop.parallel.hosts import PeerError
from jaxprop.parallel.launchers import ADDRESS, BIND, PORT, Hosts

Tell = Callable[[str], None]

FIRST_HINT, NEXT_HINT = 5.0, 30.0  # seconds
GRACE = 2.0  # seconds that a process has to notice a peer's failure by itself; one in a collective never does
UNWIND = 6.0  # seconds that a process has to close what it has open, once it fails
_ESTABLISHED = "01"


def addresses(host: str, patience: float = 0.0) -> list[str]:
    """Returns a host's addresses.

    Args:
      host: a name or an address.
      patience: seconds for a name that is not known yet, such as that of a pod that has just started.

    Raises:
      OSError: it has none.

    Example:
      >>> addresses("127.0.0.1")
      ['127.0.0.1']
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(str(one[4][0]) for one in found))
        except OSError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(1.0)


class Peers:
    """The other processes of a run, while it lasts.

    Args:
      hosts: as the launcher describes them; more than one process.
      tell: writes a line for a person.
      seconds: to wait for all processes to start.
      heartbeat: seconds without a sign after which JAX takes a process for dead and ends the others.
    """

    def __init__(self, hosts: Hosts, tell: Tell, seconds: float, heartbeat: float):
        self._tell, self._heartbeat = tell, heartbeat
        self._ending, self._failed = threading.Event(), False
        self._ours = not jax.distributed.is_initialized()
        kv.lose(None)
        if self._ours:
            _connect(hosts, tell, seconds, heartbeat)
        self.index, self.count = kv.process_index(), kv.process_count()
        self._names: dict[int, str] = {}
        kv.put_first(f"jaxprop/host/{self.index}", socket.gethostname())
        self._threads = [
            threading.Thread(target=work, name=f"jaxprop{work.__name__}", daemon=True)
            for work in (self._listen, self._beat)
        ]
        for thread in self._threads:
            thread.start()

    def name(self, process: int) -> str:
        """Returns what a process is called: `process 1 of 4 on node7`."""
        if process not in self._names:
            with contextlib.suppress(TimeoutError, jax.errors.JaxRuntimeError):
                self._names[process] = kv.get(f"jaxprop/host/{process}", 1.0)
        return f"process {process} of {self.count} on {self._names.get(process, 'an unknown host')}"

    def end(self) -> None:
        """Waits until all processes are done, and disconnects.

        Raises:
          PeerError: one of them has failed.
        """
        kv.put_first(f"jaxprop/done/{self.index}", "")
        if self.index == 0:
            for process in range(1, self.count):
                while kv.wait_for(f"jaxprop/done/{process}", kv.AGREE_SECONDS) is None:
                    self._tell(f"waiting for {self.name(process)} to end")
            kv.put_first("jaxprop/end", "")
        else:
            while kv.wait_for("jaxprop/end", kv.AGREE_SECONDS) is None:
                self._tell(f"waiting for {self.name(0)} to end")
        self._stop()
        if self._ours:
            jax.distributed.shutdown()

    def explain(self, error: BaseException) -> PeerError | None:
        """Returns the failure of a peer that an error is a consequence of, or None for an error of this process.

        Args:
          error: a collective operation fails on all processes when one of them is gone; the name of that one is known
            once it has not been heard of for half the heartbeat.
        """
        if isinstance(error, PeerError):
            return error
        if not _is_collective(error):
            return None
        deadline = time.monotonic() + self._heartbeat
        try:
            while time.monotonic() < deadline:
                kv.check_peers()
                for key, seconds in kv.store().key_value_dir_get("jaxprop/silent/"):
                    process = int(key.rpartition("/")[2])
                    if process != self.index:
                        return PeerError(f"{self.name(process)} is lost: no sign of it in {seconds} s", EXIT_RUNTIME)
                time.sleep(0.1)
        except PeerError as found:
            return found
        except jax.errors.JaxRuntimeError:
            return PeerError(f"{self.name(0)} is lost, which coordinates the others", EXIT_RUNTIME)
        return None

    def announce(self, sentence: str, exit_code: int) -> None:
        """Tells the others at once that this process fails, and sees to it that it ends soon.

        What is left of the process runs to its end, where that waits for no peer: what closes a checkpoint may do so
        for good. To be called before anything is closed; only the first failure counts.

        Args:
          sentence: why.
          exit_code: of this process, and so of the others.
        """
        if self._failed:
            return
        self._failed = True
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            kv.put_first("jaxprop/failed", json.dumps({"process": self.index, "code": exit_code, "why": sentence}))

        def end() -> None:
            if not self._ending.wait(UNWIND):
                self._tell(f"error: {sentence}")
                self._leave(exit_code)

        threading.Thread(target=end, name="jaxprop-end", daemon=True).start()

    def fail(self, exit_code: int) -> None:
        """Lets Python report the error that was announced, and then ends the process with an exit code.

        JAX cannot shut down without those that are gone, and would abort.
        """
        self._stop()
        atexit.register(self._leave, exit_code)

    def _stop(self) -> None:
        """Ends the threads: one that is in a call of JAX's when Python ends would abort the process."""
        self._ending.set()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def _leave(self, exit_code: int) -> None:
        """Ends the process at once. Process 0 stays until all have left: without their coordinator, JAX aborts them."""
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            kv.put_first(f"jaxprop/left/{self.index}", "")
            deadline = time.monotonic() + GRACE + 3
            gone = kv.store().key_value_dir_get("jaxprop/silent/") if self.index == 0 else ()
            known = {int(key.rpartition("/")[2]) for key, _ in gone}
            for process in set(range(1, self.count)) - known if self.index == 0 else ():
                while (left := deadline - time.monotonic()) > 0:
                    with contextlib.suppress(TimeoutError):
                        kv.get(f"jaxprop/left/{process}", min(left, 1.0))
                        break
            time.sleep(0.2 if self.index == 0 else 0.0)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(exit_code or EXIT_RUNTIME)

    def _listen(self) -> None:
        """Waits for the failure of a peer, and ends this process where its main thread does not notice."""
        failed = None
        try:
            while failed is None and not self._ending.wait(kv.poll_seconds()):
                failed = kv.peek("jaxprop/failed")
        except jax.errors.JaxRuntimeError:
            if self.index and not self._ending.is_set():
                self._tell(f"error: {self.name(0)} is lost, which coordinates the others")
                os._exit(EXIT_RUNTIME)
        if failed is None:
            return
        found = json.loads(failed)
        error = PeerError(f"{self.name(found['process'])} has failed: {found['why']}", found["code"])
        kv.lose(error)
        if not self._ending.wait(GRACE):
            self._tell(f"error: {error}")
            self._leave(error.exit_code)

    def _beat(self) -> None:
        """Gives a sign of this process; process 0 keeps a list of those that have given none for a while."""
        interval = max(1.0, self.count / 100)
        seen: dict[int, tuple[str, float]] = {}
        silent: set[int] = set()
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            for number in range(1 << 60):
                kv.store().key_value_set(f"jaxprop/alive/{self.index}", str(number), allow_overwrite=True)
                for key, sign in kv.store().key_value_dir_get("jaxprop/alive/") if self.index == 0 else ():
                    process, now = int(key.rpartition("/")[2]), time.monotonic()
                    if seen.get(process, ("", 0.0))[0] != sign:
                        seen[process] = (sign, now)
                        if process in silent:
                            silent.remove(process)
                            kv.store().key_value_delete(f"jaxprop/silent/{process}")
                    elif now - seen[process][1] > self._heartbeat / 2 and process not in silent:
                        silent.add(process)
                        kv.put_first(f"jaxprop/silent/{process}", f"{now - seen[process][1]:.0f}")
                        self._tell(f"no sign of {self.name(process)} in {now - seen[process][1]:.0f} s")
                if self._ending.wait(interval):
                    return


def _is_collective(error: BaseException) -> bool:
    """Whether an error may be that of a collective operation; some of JAX's come as a ValueError."""
    named = isinstance(error, Exception) and any(name in str(error).lower() for name in ("gloo", "nccl", "rccl"))
    return named or isinstance(error, jax.errors.JaxRuntimeError)


# -- starting -------------------------------------------------------------------------------------


def _connect(hosts: Hosts, tell: Tell, seconds: float, heartbeat: float) -> None:
    if hosts.process_index == 0 and hosts.bind is not None:
        _check_bind(hosts)
    started = threading.Event()
    threading.Thread(target=_hint, args=(hosts, tell, seconds, started), name="jaxprop-start", daemon=True).start()
    handler = signal.getsignal(signal.SIGTERM)
    known: dict[str, Any] = {}
    if hosts.coordinator is not None:  # otherwise JAX finds all of it by itself
        known = {
            "coordinator_address": hosts.coordinator, "num_processes": hosts.process_count,
            "process_id": hosts.process_index, "coordinator_bind_address": hosts.bind,
            "local_device_ids": hosts.local_devices, "cluster_detection_method": "deactivate",
        }  # fmt: skip
    try:
        # The limit is kept by the thread: JAX itself would abort the process with a dump of its stack.
        jax.distributed.initialize(
            **known, initialization_timeout=int(seconds) + 60, heartbeat_timeout_seconds=int(heartbeat)
        )
    except RuntimeError as error:
        raise JaxpropError(f"the processes cannot be connected: {str(error).splitlines()[0]}") from error
    finally:
        started.set()
        if threading.current_thread() is threading.main_thread() and handler is not None:
            signal.signal(signal.SIGTERM, handler)  # JAX has put its own in its place


def _check_bind(hosts: Hosts) -> None:
    assert hosts.bind is not None
    host, _, port = hosts.bind.rpartition(":")
    host = host.strip("[]")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, int(port)))
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise UsageError(
                f"process 0 runs on {socket.gethostname()}, which does not have the coordinator's address {host}; set "
                f"{ADDRESS}=HOST:PORT to the host of process 0, or {BIND} to what it shall listen at"
            ) from error
        raise JaxpropError(
            f"process 0 cannot listen at {hosts.bind} ({error.strerror}); set {PORT} to another port on every process, "
            f"or name another one in {ADDRESS} where that is set"
        ) from error


def _hint(hosts: Hosts, tell: Tell, seconds: float, started: threading.Event) -> None:
    """Says what the process waits for, and ends it when that has lasted too long."""
    deadline = time.monotonic() + seconds
    wait = min(FIRST_HINT, seconds)
    while not started.wait(wait):
        what = f"{_missing(hosts)} at {hosts.coordinator or 'the address that JAX has found'}"
        if time.monotonic() >= deadline:
            tell(
                f"error: waited {seconds:.0f} s for {what} in vain; check that every process has been started with the "
                f"same {ADDRESS} and count, that the hosts reach this port through their firewalls, and that none of "
                "them has ended with an error of its own"
            )
            os._exit(EXIT_RUNTIME)
        tell(f"waiting for {what}")
        wait = max(0.0, min(NEXT_HINT, deadline - time.monotonic()))


def _missing(hosts: Hosts) -> str:
    """Who is waited for; process 0 knows from its connections how many are there."""
    if hosts.process_index:
        return f"process 0 of {hosts.process_count}"
    there = _connections(int((hosts.coordinator or ":0").rpartition(":")[2]))
    if there is None:
        return f"the other {hosts.process_count - 1} of {hosts.process_count} processes"
    return f"{max(0, hosts.process_count - there)} of {hosts.process_count} processes"


def _connections(port: int) -> int | None:
    """How many connections the kernel has at a port of this host; None where it does not say."""
    lines: list[str] = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            lines += Path(table).read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == _ESTABLISHED for row in rows) if rows else None
