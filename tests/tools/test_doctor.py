"""What `jaxprop doctor` finds out, on machines with and without each thing."""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys

import pytest

import jaxprop
from jaxprop.run.compile_cache import find_cache
from jaxprop.tools import doctor as module
from jaxprop.tools.doctor import (
    describe_cache,
    diagnose,
    find_extras,
    find_host,
    install_line,
    parse_requirement,
    probe_devices,
)

PIP = f"{sys.executable} -m pip install"


@pytest.fixture
def machine(monkeypatch):
    """A machine with one CPU on which nothing is wrong; returns what may be changed about it."""
    extras = ["equinox>=0.13; extra == 'equinox'", "jax[cuda13]>=0.10; extra=='cuda13'"]
    distributions = {
        "jaxprop": ["jax>=0.10", "flax>=0.12", *extras],
        "jax": ["jaxlib<=0.10.2,>=0.10.1", 'jaxlib; extra == "cuda13"', 'jax-cuda13-plugin[x]==1; extra == "cuda13"'],
    }
    versions = {"jax": "0.10.2", "jaxlib": "0.10.2", "flax": "0.12.8", "jaxprop": "0.1.0"}

    def known(name):
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "requires", lambda name: known(name) and distributions.get(name))
    monkeypatch.setattr(importlib.metadata, "version", known)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(module, "probe_devices", lambda environment: ([{"platform": "cpu"}], ""))
    monkeypatch.setattr(module, "probe_forms", lambda environment: {})
    return versions


def found(folder, **environment):
    return [tuple(notice) for notice in diagnose(folder, environment).notices]


def test_nothing_is_wrong(machine, tmp_path):
    assert found(tmp_path) == []
    assert diagnose(tmp_path, {}).versions["jax"] == "0.10.2"
    assert diagnose(tmp_path, {}).versions["optax"] is None


@pytest.mark.parametrize(
    ("installed", "notice"),
    [
        ({"flax": None}, ("broken", "flax is not installed", f"{PIP} 'flax>=0.12'")),
        ({"flax": "0.9.3"}, ("broken", "flax 0.9.3 is too old, at least 0.12 is needed", f"{PIP} 'flax>=0.12'")),
        ({"flax": "0.12.0rc1+local.7"}, None),
        ({"flax": "1.0"}, None),
    ],
)
def test_packages_a_run_needs(machine, tmp_path, installed, notice):
    machine.update(installed)
    for name in [name for name, version in machine.items() if version is None]:
        del machine[name]
    assert found(tmp_path) == ([notice] if notice else [])


def test_extras_count_with_the_packages_of_their_own_extras(machine):
    def installed():
        required = [parse_requirement(line) for line in importlib.metadata.requires("jaxprop")]
        return {name: extra.installed for name, extra in find_extras(required).items()}

    assert installed() == {"cuda13": False, "equinox": False}
    machine["jax-cuda13-plugin"] = machine["equinox"] = "1"
    assert installed() == {"cuda13": True, "equinox": True}


@pytest.mark.parametrize(
    ("direct_url", "line"),
    [
        (None, f"{PIP} 'jax[tpu]>=0.10'"),
        ({"url": "file://HERE/my%20jp", "dir_info": {"editable": True}}, f"{PIP} -e 'HERE/my jp[tpu]'"),
        ({"url": "file://HERE/gone", "dir_info": {"editable": True}}, f"{PIP} 'jax[tpu]>=0.10'"),
        ({"url": "file://HERE/my%20jp", "dir_info": {}}, f"{PIP} 'jax[tpu]>=0.10'"),
        ({"url": "file:///x/j.whl", "archive_info": {}}, f"{PIP} 'jax[tpu]>=0.10'"),
        ({"url": "https://host/jp.git", "vcs_info": {"vcs": "git"}}, f"{PIP} 'jax[tpu]>=0.10'"),
    ],
)
def test_the_line_that_installs_an_extra(monkeypatch, tmp_path, direct_url, line):
    (tmp_path / "my jp").mkdir()

    class Distribution:
        def read_text(self, name):
            return json.dumps(direct_url).replace("HERE", str(tmp_path)) if direct_url else None

    monkeypatch.setattr(importlib.metadata, "distribution", lambda name: Distribution())
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: ["rich", "jax[tpu]>=0.10; extra == 'tpu'"])
    assert install_line("tpu") == line.replace("HERE", str(tmp_path))


@pytest.mark.parametrize(
    ("environment", "severity", "what"),
    [
        ({"JAX_PLATFORMS": "cpu"}, "note", "JAX_PLATFORMS=cpu is set: jax uses only these platforms"),
        ({"XLA_FLAGS": "--x"}, "note", "XLA_FLAGS=--x is set: the compiler's settings are changed"),
        ({"JAX_DISABLE_JIT": "1"}, "note", "JAX_DISABLE_JIT=1 is set: nothing is compiled, so everything is slow"),
    ],
)
def test_variables_that_change_every_run(machine, tmp_path, environment, severity, what):
    assert found(tmp_path, **environment) == [
        (severity, what, f"unset {next(iter(environment))}, unless this is intended")
    ]


def test_a_gpu_that_jax_does_not_use(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ACCELERATORS", {"cuda13": ("an NVIDIA GPU", tmp_path), "tpu": ("a TPU", "/no/tpu")})
    fix = install_line("cuda13")
    assert list(module._accelerator_notices([{"platform": "cpu"}], {}, {})) == [
        ("note", "this machine has an NVIDIA GPU, but jax uses only the CPU", fix)
    ]
    assert list(module._accelerator_notices([{"platform": "gpu"}], {}, {})) == []
    assert list(module._accelerator_notices([{"platform": "cpu"}], {}, {"JAX_PLATFORMS": "cpu"})) == []


def test_folders_that_no_run_can_be_saved_in(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 5 << 20))
    assert found(tmp_path) == [
        (
            "note",
            f"the disk of {tmp_path} has only 5 MiB left",
            "free some space, or choose a folder on another disk with --run DIR",
        )
    ]
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "runs")
    (severity, what, _), *_ = found(tmp_path)
    assert (severity, what.startswith(f"the folder {tmp_path / 'runs'} is not writable")) == ("broken", True)


def test_what_is_broken_comes_first(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "probe_devices", lambda environment: ([], "no libtpu"))
    (first, *_), (second, *_) = (notice[:2] for notice in found(tmp_path, JAX_PLATFORMS="tpu"))
    assert (first, second) == ("broken", "note")
    assert found(tmp_path, JAX_PLATFORMS="tpu")[0] == ("broken", "jax cannot start: no libtpu", "unset JAX_PLATFORMS")
    assert found(tmp_path)[0][2] == f"{PIP} --upgrade jax jaxlib"


def test_the_devices_of_another_process():
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
    assert probe_devices(environment) == (
        [{"platform": "cpu", "kind": "cpu", "memory_bytes": None, "count": 3}],
        "",
    )


def test_a_compiler_flag_that_ends_the_process():
    devices, failure = probe_devices(os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_nonsense=1"})
    assert devices == []
    assert failure.startswith("Unknown flag")
    assert "--xla_nonsense=1" in failure


def test_the_forms_of_layers_in_use(monkeypatch, tmp_path):
    facts = module.probe_forms(os.environ | {"JAX_PLATFORMS": "cpu"})
    assert facts == {"cpu": True, "convolutions": True, "fused_attention": False, "cudnn_lstm": False}
    monkeypatch.setattr(module, "probe_devices", lambda environment: ([{"platform": "cpu"}], ""))
    monkeypatch.setattr(module, "probe_forms", lambda environment: facts)
    rows = diagnose(tmp_path, {}).as_dict()["forms"]
    assert [row["layer"] for row in rows if not row["active"]] == [
        "LSTM of 1024 units, float32, no mask",
        "causal attention in 16 bits",
    ]


def test_where_jax_does_not_start_no_forms_are_shown(monkeypatch):
    assert module.probe_forms(os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_nonsense=1"}) == {}


def test_devices_that_never_answer(monkeypatch):
    def run(*arguments, timeout, **options):
        raise subprocess.TimeoutExpired("python", timeout)

    monkeypatch.setattr(subprocess, "run", run)
    assert probe_devices({}) == ([], "it found no devices within 120 s")


def test_this_host():
    host = find_host()
    assert host["cores"] >= 1
    assert host["memory_bytes"] is None or host["memory_bytes"] > (host["available_bytes"] or 0) >= 0


def test_the_folder_of_compiled_programs_is_described_and_a_refused_one_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "probe_devices", lambda environment: ([], ""))
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    folder = find_cache(environment).folder
    assert describe_cache(environment) == f"{folder}, 0 programs, 0.0 MiB"
    folder.mkdir(parents=True)
    (folder / "jit_f-00-cache").write_bytes(bytes(1 << 20))
    assert describe_cache(environment) == f"{folder}, 1 programs, 1.0 MiB"
    folder.chmod(0o777)
    assert describe_cache(environment) == f"nothing is kept in {folder}"
    whats = [notice.what for notice in diagnose(tmp_path, environment).notices]
    assert f"compiled programs are not kept between runs: others may write to {folder}" in whats
    assert describe_cache({"JAX_COMPILATION_CACHE_DIR": "/x"}) == "/x (as JAX_COMPILATION_CACHE_DIR says)"
    assert [
        notice.what for notice in diagnose(tmp_path, {"JAXPROP_COMPILE_CACHE": "off"}).notices if "kept" in notice.what
    ] == []


def test_a_source_tree_that_is_not_installed(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "requirements", lambda name: [])
    monkeypatch.setattr(module, "probe_devices", lambda environment: ([], ""))
    seen = diagnose(tmp_path, {})
    assert "jaxprop runs from its source and is not installed" in [notice.what for notice in seen.notices]
    assert (seen.versions["jaxprop"], seen.extras) == (jaxprop.__version__, {})
