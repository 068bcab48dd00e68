"""Errors that a user of a job can mend: a job prints one as a single line and exits with code 2."""


class PipelineError(Exception):
    """Base of everything that a user can mend; its text says where, wanted, got and the remedy."""


class ConfigError(PipelineError):
    """A configuration key, type, value or combination that cannot be run."""


class DataError(PipelineError):
    """Source data that is missing, unreadable or empty."""


class ArtifactError(PipelineError):
    """An artifact that is missing, incomplete, damaged, or made for something else."""


class CheckpointError(PipelineError):
    """A model or training checkpoint that cannot be used."""
