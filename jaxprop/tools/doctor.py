"""What this machine and this Python offer to a run, and what keeps runs from working.

This module does not import jax, because jax may be what is broken.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from jaxprop.run.allocator import VARIABLE, allocator_in_use, find_allocator
from jaxprop.run.compile_cache import VARIABLE as CACHE_VARIABLE
from jaxprop.run.compile_cache import find_cache, refusal, usage
from jaxprop.run.host import cores
from jaxprop.tools.forms import forms_in_use
from jaxprop.version import __version__

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pydantic")
VARIABLES = {  # environment variables that change every run
    "JAX_PLATFORMS": "jax uses only these platforms",
    "JAX_ENABLE_X64": "arrays have 64-bit types, which are slow on accelerators",
    "JAX_DISABLE_JIT": "nothing is compiled, so everything is slow",
    "JAX_DEBUG_NANS": "every step waits for a check of its results",
    "XLA_FLAGS": "the compiler's settings are changed",
}
# extra -> the hardware it is for, and a device file that exists where that hardware does
ACCELERATORS = {"cuda13": ("an NVIDIA GPU", "/dev/nvidia0"), "tpu": ("a TPU", "/dev/accel0")}
LITTLE_DISK = 1 << 30
# This runs in a separate process, because a wrong XLA flag or a broken driver ends the process that starts jax.
PROBE = """
import json, jax
memory = lambda device: (device.memory_stats() or {}).get("bytes_limit")
print(json.dumps([[d.platform, d.device_kind, memory(d)] for d in jax.local_devices()]))
"""
# What layers choose their forms by; a process of its own, since it needs what the package needs.
PROBE_FORMS = """
import json, jax, jax.numpy as jnp
from jaxprop.core.compiler import fast_options
from jaxprop.models.attention import has_fused_attention
from jaxprop.models.cudnn_lstm import has_cudnn_lstm
facts = {"cpu": jax.default_backend() == "cpu", "convolutions": bool(fast_options())}
facts |= {"fused_attention": has_fused_attention(jnp.dtype("bfloat16"), 64), "cudnn_lstm": has_cudnn_lstm()}
print(json.dumps(facts))
"""
PROBE_SECONDS = 120
LOG_PREFIX = re.compile(r"^[A-Z]\d{4} [\d:.]+ +\d+ \S+\] ")  # level, date, time, thread, source line


class Notice(NamedTuple):
    """Something to tell the user, and how to change it: `broken` keeps runs from working, a `note` does not."""

    severity: Literal["broken", "note"]
    what: str
    fix: str


class Extra(NamedTuple):
    """An optional dependency: whether it is installed, and the line that installs it."""

    installed: bool
    install: str


class Requirement(NamedTuple):
    """One line of a distribution's requirements, such as `jax[cuda13]>=0.10; extra == 'cuda13'`."""

    name: str
    extras: tuple[str, ...]
    minimum: str
    of_extra: str


class Diagnosis(NamedTuple):
    """What `jaxprop doctor` shows.

    Args:
      versions: package -> version, None where it is missing.
      devices: `platform`, `kind`, `count` and `memory_bytes` of each kind of local device.
      host: `system`, `cores` this process may use, `memory_bytes`, `available_bytes`, and what there is to say of the
        `allocator` and the `compile_cache`; None where unknown.
      extras: name -> whether it is installed, and how to.
      notices: the broken things first, then the notes.
      forms: what layers do on the device; see `jaxprop.tools.forms`.
    """

    versions: dict[str, str | None]
    devices: list[dict[str, Any]]
    host: dict[str, Any]
    extras: dict[str, Extra]
    notices: list[Notice]
    forms: tuple[dict[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Returns plain dicts and lists, for JSON."""
        return {
            "versions": self.versions,
            "devices": self.devices,
            "host": self.host,
            "extras": {name: extra._asdict() for name, extra in self.extras.items()},
            "forms": list(self.forms),
            # Scripts read this key from `doctor --json`.
            "findings": [notice._asdict() for notice in self.notices],
        }


def diagnose(folder: str | os.PathLike[str] = ".", environment: Mapping[str, str] = os.environ) -> Diagnosis:
    """Inspects this Python, its packages, the devices and the host, without using the network.

    Args:
      folder: where runs are to be written.
      environment: environment variables to report on, and to start jax with.

    Returns:
      The diagnosis.
    """
    required = requirements("jaxprop")
    devices, failure = probe_devices(environment)
    extras = find_extras(required)
    notices = [
        *_package_notices(required),
        *([Notice("broken", f"jax cannot start: {failure}", _start_fix(environment))] if failure else []),
        *_folder_notices(Path(folder)),
        *([] if failure else _accelerator_notices(devices, extras, environment)),
        *_variable_notices(environment),
        *_cache_notices(environment),
    ]
    versions = {"python": platform.python_version(), "jaxprop": __version__}
    return Diagnosis(
        versions={**versions, **{name: version_of(name) for name in PACKAGES}},
        devices=devices,
        host={**find_host(), "compile_cache": describe_cache(environment)},
        extras=extras,
        forms=tuple(forms_in_use(facts)) if (facts := probe_forms(environment) if devices else {}) else (),
        notices=sorted(notices, key=lambda notice: notice.severity != "broken"),
    )


# -- packages -----------------------------------------------------------------------------------


def version_of(name: str) -> str | None:
    """Returns the installed version of a distribution, or None.

    Example:
      >>> version_of("no-such-distribution") is None
      True
    """
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirements(name: str) -> list[Requirement]:
    """Returns the requirements of an installed distribution; an empty list if it is not installed."""
    try:
        lines = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [parse_requirement(line) for line in lines]


def parse_requirement(line: str) -> Requirement:
    """Reads one requirement.

    Example:
      >>> parse_requirement("jax[cuda13]>=0.10; extra == 'cuda13'")
      Requirement(name='jax', extras=('cuda13',), minimum='0.10', of_extra='cuda13')
    """
    found = re.match(r"([\w.-]+)\s*(?:\[([^\]]*)\])?([^;]*)", line)
    assert found is not None, line
    minimum = re.search(r">=\s*([\w.]+)", found[3])
    extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", line)
    names = tuple(part.strip() for part in (found[2] or "").split(",") if part.strip())
    return Requirement(found[1], names, minimum[1] if minimum else "", extra[1] if extra else "")


def find_extras(required: list[Requirement]) -> dict[str, Extra]:
    """Returns every extra of `jaxprop`, by name.

    Args:
      required: the requirements of `jaxprop`.
    """
    names = dict.fromkeys(requirement.of_extra for requirement in required if requirement.of_extra)
    return {
        name: Extra(all(_is_installed(r) for r in required if r.of_extra == name), install_line(name))
        for name in sorted(names)
    }


def _is_installed(requirement: Requirement) -> bool:
    """Whether a package and those of its own extras are installed, at whatever version."""
    inner = [r for r in requirements(requirement.name) if r.of_extra and r.of_extra in requirement.extras]
    return all(version_of(name) is not None for name in (requirement.name, *(r.name for r in inner)))


def install_line(extra: str) -> str:
    """Returns the command that installs an extra into this Python.

    It names the packages of the extra, because the project called `jaxprop` on the public index is an unrelated one,
    and what was installed from a URL or a folder may not be there any more. An editable checkout is installed again.
    """
    try:
        text = importlib.metadata.distribution("jaxprop").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        text = None
    source = json.loads(text) if text else {}
    path = Path(unquote(urlsplit(source.get("url", "")).path))
    if source.get("dir_info", {}).get("editable") and path.is_dir():
        return _pip("-e", f"{path}[{extra}]")
    return _pip(*(_named(r) for r in requirements("jaxprop") if r.of_extra == extra))


def _named(requirement: Requirement) -> str:
    extras = f"[{','.join(requirement.extras)}]" if requirement.extras else ""
    return f"{requirement.name}{extras}>={requirement.minimum}" if requirement.minimum else requirement.name + extras


def _pip(*arguments: str) -> str:
    return shlex.join([sys.executable, "-m", "pip", "install", *arguments])


def _package_notices(required: list[Requirement]) -> Iterator[Notice]:
    if not required:
        yield Notice("note", "jaxprop runs from its source and is not installed", "install it to use its extras")
    for requirement in required:
        name, minimum, version = requirement.name, requirement.minimum, version_of(requirement.name)
        if requirement.of_extra or (version is not None and _numbers(version) >= _numbers(minimum)):
            continue
        is_what = "is not installed" if version is None else f"{version} is too old, at least {minimum} is needed"
        yield Notice("broken", f"{name} {is_what}", _pip(f"{name}>={minimum}" if minimum else name))
    if importlib.util.find_spec("tensorboard") is None:
        yield Notice(
            "note", "TensorBoard, which shows what sinks.tensorboard writes, is not installed", _pip("tensorboard")
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


# -- devices ------------------------------------------------------------------------------------


def probe_devices(environment: Mapping[str, str]) -> tuple[list[dict[str, Any]], str]:
    """Starts jax in a separate process and lists its local devices.

    Args:
      environment: environment variables of that process.

    Returns:
      The local devices by kind and an empty string, or an empty list and the reason why jax did not start.
    """
    quiet = {**environment, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    try:
        ran = subprocess.run(
            [sys.executable, "-c", PROBE], capture_output=True, text=True, env=quiet, timeout=PROBE_SECONDS
        )
    except subprocess.TimeoutExpired:
        return [], f"it found no devices within {PROBE_SECONDS} s"
    if ran.returncode:
        said = [line for line in ran.stderr.splitlines() if line.strip()]
        return [], LOG_PREFIX.sub("", said[-1].strip()) if said else f"its process ended with {ran.returncode}"
    kinds = Counter(tuple(device) for device in json.loads(ran.stdout.splitlines()[-1]))
    names = ("platform", "kind", "memory_bytes")
    return [{**dict(zip(names, kind, strict=True)), "count": count} for kind, count in kinds.items()], ""


def probe_forms(environment: Mapping[str, str]) -> dict[str, bool]:
    """Asks in a separate process what the forms of layers depend on.

    Args:
      environment: environment variables of that process.

    Returns:
      The facts that `jaxprop.tools.forms` names; none where the process fails, which other checks explain.
    """
    quiet = {**environment, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    command = [sys.executable, "-c", PROBE_FORMS]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, env=quiet, timeout=PROBE_SECONDS)
        return json.loads(ran.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        return {}


def _start_fix(environment: Mapping[str, str]) -> str:
    suspects = [name for name in ("JAX_PLATFORMS", "XLA_FLAGS") if environment.get(name)]
    return f"unset {' '.join(suspects)}" if suspects else _pip("--upgrade", "jax", "jaxlib")


def _accelerator_notices(
    devices: list[dict[str, Any]], extras: Mapping[str, Extra], environment: Mapping[str, str]
) -> Iterator[Notice]:
    if environment.get("JAX_PLATFORMS") or any(device["platform"] != "cpu" for device in devices):
        return
    for extra, (what, path) in ACCELERATORS.items():
        if Path(path).exists():
            fix = extras[extra].install if extra in extras else install_line(extra)
            yield Notice("note", f"this machine has {what}, but jax uses only the CPU", fix)


# -- host ---------------------------------------------------------------------------------------


def find_host() -> dict[str, Any]:
    """Returns the host's system, the cores this process may use, and its memory in bytes, None where unknown."""
    memory = _memory()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores(),
        "memory_bytes": memory.get("MemTotal"),
        "available_bytes": memory.get("MemAvailable"),
        "allocator": _allocator(),
    }


def _allocator() -> str:
    """The allocator that `train` and other commands that compute run with, and how it is switched off."""
    found = find_allocator(os.environ)
    if found is not None:
        return f"{found} for commands that compute; {VARIABLE}=off turns it off"
    if allocator_in_use() != "system":
        return allocator_in_use()
    if os.environ.get(VARIABLE) == "off":
        return f"the system's, since {VARIABLE}=off"
    return f"the system's; steps on a CPU are faster with one that keeps freed memory: {install_line('allocator')}"


def describe_cache(environment: Mapping[str, str]) -> str:
    """Returns where commands keep compiled programs, and how much there is.

    Example:
      >>> describe_cache({"JAXPROP_COMPILE_CACHE": "off"})
      'nothing is kept (JAXPROP_COMPILE_CACHE=off)'
    """
    cache = find_cache(environment)
    if cache.folder is None:
        return f"nothing is kept ({cache.why})"
    if not cache.ours:
        return f"{cache.folder} ({cache.why})"
    if refusal(cache):
        return f"nothing is kept in {cache.folder}"
    files, size = usage(cache)
    return f"{cache.folder}, {files} programs, {size / 2**20:.1f} MiB"


def _cache_notices(environment: Mapping[str, str]) -> Iterator[Notice]:
    problem = refusal(find_cache(environment))
    if problem:
        fix = f"{CACHE_VARIABLE}=DIR names another folder, {CACHE_VARIABLE}=off keeps none"
        yield Notice("note", f"compiled programs are not kept between runs: {problem}", fix)


def _memory() -> dict[str, int]:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return _memory_by_sysconf()
    return {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}


def _memory_by_sysconf() -> dict[str, int]:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:
        return {}
    return {"MemTotal": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")}


def _folder_notices(folder: Path) -> Iterator[Notice]:
    target = folder / "runs" if (folder / "runs").exists() else folder
    if not os.access(target, os.W_OK | os.X_OK):
        what = f"the folder {target.absolute()} is not writable, so no run can be saved in it"
        yield Notice("broken", what, "change to another folder, or choose one with --run DIR")
    elif (free := shutil.disk_usage(target).free) < LITTLE_DISK:
        what = f"the disk of {target.absolute()} has only {free / 2**20:.0f} MiB left"
        yield Notice("note", what, "free some space, or choose a folder on another disk with --run DIR")


def _variable_notices(environment: Mapping[str, str]) -> Iterator[Notice]:
    for name, effect in VARIABLES.items():
        if value := environment.get(name):
            yield Notice("note", f"{name}={value} is set: {effect}", f"unset {name}, unless this is intended")
