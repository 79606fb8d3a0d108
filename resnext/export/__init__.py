"""Files for other runtimes, each checked by its own runtime."""

from resnext.export.job import ExportError, Report, export

__all__ = ["ExportError", "Report", "export"]
