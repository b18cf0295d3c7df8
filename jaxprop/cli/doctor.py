"""`jaxprop doctor`: the installed packages, the devices, and what keeps runs from working."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxprop.cli.arguments import JsonOption
from jaxprop.cli.output import print_result
from jaxprop.cli.tables import show, size
from jaxprop.errors import EXIT_DONE, EXIT_RUNTIME

if TYPE_CHECKING:
    from jaxprop.tools.doctor import Diagnosis


def doctor(json: JsonOption = False) -> int:
    """Show versions, devices, memory, extras and the forms of layers, and what keeps runs from working."""
    from jaxprop.tools.doctor import diagnose

    found = diagnose()
    if json:
        print_result("doctor", None, found.as_dict(), indent=2)
    else:
        _print(found)
    return EXIT_RUNTIME if any(notice.severity == "broken" for notice in found.notices) else EXIT_DONE


def _print(found: Diagnosis) -> None:
    show(["package", "version"], [(name, version or "not installed") for name, version in found.versions.items()])
    host = {"system": found.host["system"], "cores": str(found.host["cores"])}
    host |= {"memory": size(found.host["memory_bytes"]), "available": size(found.host["available_bytes"])}
    host |= {"allocator": found.host["allocator"], "compile cache": found.host["compile_cache"]}
    show(["host", ""], host.items())
    devices = [(d["platform"], d["kind"], str(d["count"]), size(d["memory_bytes"])) for d in found.devices]
    show(["platform", "devices", "count", "memory of each"], devices, right=[2, 3])
    extras = [(name, "installed" if e.installed else f"not installed: {e.install}") for name, e in found.extras.items()]
    show(["extra", ""], extras)
    if found.forms:
        rows = [(one["layer"], one["form"], one["why"], one["gain"]) for one in found.forms]
        show(["layer", "form", "in use", "times as fast"], rows)
    for notice in found.notices:
        print(f"{notice.severity}: {notice.what}\n  {notice.fix}")
    if not any(notice.severity == "broken" for notice in found.notices):
        print("nothing is broken")
