"""Sources of training examples: generated problems, files, and data sets of the hub."""

from pipeline.config import DataSection, SourceSection
from pipeline.sources.files import FileSource
from pipeline.sources.generated import GeneratedSource
from pipeline.sources.hub import HubSource
from pipeline.sources.rows import Part, Row, Source

__all__ = ["Part", "Row", "Source", "open_source"]


def open_source(data: DataSection, source: SourceSection) -> Source:
    """The reader of ``source``; opens nothing yet."""
    if source.kind == "files":
        return FileSource(data, source)
    return HubSource(data, source) if source.kind == "hub" else GeneratedSource(data, source)
