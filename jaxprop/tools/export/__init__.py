"""A trained run as files that other programs load without jaxprop; one file a format."""

from jaxprop.tools.export.run import FORMATS, export_run

__all__ = ["FORMATS", "export_run"]
