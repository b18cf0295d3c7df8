"""`bench/environment.py`: where figures come from."""

import os
import subprocess

import jax
import pytest

from jaxprop.bench import environment as module


def test_this_machine():
    found = module.environment(jax.devices()[:2])
    assert [device["platform"] for device in found.devices] == ["cpu", "cpu"]
    assert found.versions["jax"] == jax.__version__
    assert found.host["cores"] == os.cpu_count()
    assert "--xla_force_host_platform_device_count=8" in found.flags["XLA_FLAGS"]


def test_variables_that_hold_paths_are_left_out(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/home/somebody/cache")
    monkeypatch.setenv("JAX_ENABLE_X64", "0")
    flags = module.environment(jax.devices()[:1]).flags
    assert "JAX_COMPILATION_CACHE_DIR" not in flags
    assert flags["JAX_ENABLE_X64"] == "0"


@pytest.fixture
def project(tmp_path, monkeypatch):
    for name in ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(name, "a@b.c")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "a").write_text("1")
    subprocess.run(["git", "add", "a"], cwd=tmp_path, check=True)
    subprocess.run(["git", "commit", "-qm", "one"], cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_commit_and_whether_files_were_changed(project):
    clean = module.environment(jax.devices()[:1]).commit
    assert len(clean) == 12
    (project / "a").write_text("2")
    assert module.environment(jax.devices()[:1]).commit == clean + "+"


def test_no_commit_outside_a_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert module.environment(jax.devices()[:1]).commit is None
