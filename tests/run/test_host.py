"""Memory that is free, of the machine and within the limits of containers, by files as kernels write them."""

import sys

import pytest

from jaxprop.run.host import available_bytes, cores, resident_bytes

MI = 2**20
MEMORY = {"proc/meminfo": "MemTotal: 65536000 kB\nMemAvailable: 8388608 kB\n"}


def two(folder, limit, used, files):
    """The files of a group of version 2."""
    stat = f"anon 5\nfile 99\ninactive_file {files}\nactive_file 7\n"
    at = f"sys/fs/cgroup/{folder}".rstrip("/")
    return {f"{at}/memory.max": f"{limit}\n", f"{at}/memory.current": f"{used}\n", f"{at}/memory.stat": stat}


def one(folder, limit, used, files):
    """The files of a group of version 1."""
    at = f"sys/fs/cgroup/memory/{folder}".rstrip("/")
    return {
        f"{at}/memory.limit_in_bytes": f"{limit}\n", f"{at}/memory.usage_in_bytes": f"{used}\n",
        f"{at}/memory.stat": f"inactive_file 3\ntotal_inactive_file {files}\n",
    }  # fmt: skip


def own(text):
    return {"proc/self/cgroup": text}


OLD = "9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n"
CASES = {
    "no container": (own("0::/user.slice\n") | two("user.slice", "max", 5, 0), 8192 * MI),
    "no kernel that tells of groups": ({}, 8192 * MI),
    "a limit": (own("0::/\n") | two("", 4096 * MI, 1024 * MI, 0), 3072 * MI),
    "files that can be dropped are free": (own("0::/\n") | two("", 4096 * MI, 3096 * MI, 1000 * MI), 2000 * MI),
    "a limit above what the machine has": (own("0::/\n") | two("", 65536 * MI, 0, 0), 8192 * MI),
    "a group that holds the own one": (
        own("0::/pod/one\n") | two("pod/one", "max", 1, 0) | two("pod", 2048 * MI, 1024 * MI, 0), 1024 * MI
    ),
    "used up": (own("0::/\n") | two("", 512 * MI, 600 * MI, 0), 0),
    "version 1": (own(OLD) | one("docker/abc", 4096 * MI, 1024 * MI, 24 * MI), 3096 * MI),
    "version 1 by the host's path": (own(OLD) | one("", 4096 * MI, 1024 * MI, 0), 3072 * MI),
    "version 1 without a limit": (own(OLD) | one("docker/abc", 2**63 - 4096, 1024 * MI, 0), 8192 * MI),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_memory_that_is_free(case, tmp_path):
    files, left = CASES[case]
    for name, text in (MEMORY | files).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert available_bytes(tmp_path) == left


def test_a_kernel_that_says_nothing(tmp_path):
    assert available_bytes(tmp_path) is None


def test_this_machine():
    assert cores() >= 1
    if sys.platform == "linux":
        assert resident_bytes() >= MI
        assert available_bytes() >= MI
