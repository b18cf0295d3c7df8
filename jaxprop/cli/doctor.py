"""`jaxprop doctor`: what is installed, which devices there are, and what is wrong."""

from __future__ import annotations

import json as json_format

from jaxprop.cli.tables import show, size
from jaxprop.errors import EXIT_DONE, EXIT_RUNTIME
from jaxprop.tools.doctor import Diagnosis, diagnose


def doctor(json: bool) -> int:
    """Prints the diagnosis; returns 0 where runs can work, 1 where something is broken."""
    found = diagnose()
    if json:
        print(json_format.dumps(found.as_dict(), indent=2))
    else:
        _print(found)
    return EXIT_RUNTIME if any(notice.severity == "broken" for notice in found.notices) else EXIT_DONE


def _print(found: Diagnosis) -> None:
    show(["package", "version"], [(name, version or "not installed") for name, version in found.versions.items()])
    host = {"system": found.host["system"], "cores": str(found.host["cores"])}
    host |= {"memory": _bytes(found.host["memory_bytes"]), "available": _bytes(found.host["available_bytes"])}
    show(["host", ""], host.items())
    devices = [(d["platform"], d["kind"], str(d["count"]), _bytes(d["memory_bytes"])) for d in found.devices]
    show(["platform", "devices", "count", "memory of each"], devices, right=[2, 3])
    extras = [(name, "installed" if e.installed else f"not installed: {e.install}") for name, e in found.extras.items()]
    show(["extra", ""], extras)
    for notice in found.notices:
        print(f"{notice.severity}: {notice.what}\n  {notice.fix}")
    if not any(notice.severity == "broken" for notice in found.notices):
        print("nothing is broken")


def _bytes(count: int | None) -> str:
    return "unknown" if count is None else size(count)
