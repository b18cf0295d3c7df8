"""The connection of the processes: names, ports, and who is waited for."""

import socket

import pytest

from jaxprop.errors import JaxpropError, UsageError
from jaxprop.parallel import peers
from jaxprop.parallel.launchers import Hosts


def test_addresses_of_a_host():
    assert peers.addresses("127.0.0.1") == ["127.0.0.1"]
    with pytest.raises(OSError, match=r"."):
        peers.addresses("no.such.host.invalid")


def test_the_coordinator_must_be_able_to_listen():
    with pytest.raises(UsageError, match=r"which does not have the coordinator's address 192\.0\.2\.1; set JAX_COORD"):
        peers._check_bind(Hosts("env", 2, 0, "192.0.2.1:8476", "192.0.2.1:8476"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            JaxpropError,
            match=rf"cannot listen at 127\.0\.0\.1:{port} .*; set JAX_COORDINATOR_PORT .*ADDRESS where that is set",
        ) as no:
            peers._check_bind(Hosts("env", 2, 0, f"127.0.0.1:{port}", f"127.0.0.1:{port}"))
        assert no.value.exit_code == 1
    peers._check_bind(Hosts("env", 2, 0, f"127.0.0.1:{port}", f"127.0.0.1:{port}"))


def test_who_is_waited_for_is_counted_by_connections():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        address = listening.getsockname()
        hosts = Hosts("env", 4, 0, f"127.0.0.1:{address[1]}", f"127.0.0.1:{address[1]}")
        assert peers._missing(hosts) in ("4 of 4 processes", "the other 3 of 4 processes")
        with socket.create_connection(address), socket.create_connection(address):
            assert peers._missing(hosts) in ("2 of 4 processes", "the other 3 of 4 processes")
        assert peers._missing(hosts._replace(process_index=2)) == "process 0 of 4"


@pytest.mark.parametrize(
    ("error", "collective"),
    [
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer"), True),
        (RuntimeError("NCCL operation ncclAllReduce failed"), True),
        (ValueError("labels outside the classes"), False),
        (KeyboardInterrupt("gloo"), False),
    ],
)
def test_which_errors_may_be_the_consequence_of_a_lost_peer(error, collective):
    assert peers._is_collective(error) == collective
