"""Where each artifact of a run lies under ``run.output_dir``."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline import storage
from pipeline.config import RunConfig, SourceSection

STATE_FOLDER = "state"
"""Inside a checkpoint of ours: what training continues from."""
DRIFT_FILE = "drift.json"
"""In the artifact of stage drift: one row a checkpoint."""
TRIALS_FILE = "trials.parquet"
"""What stage tune makes: one row a trial."""


def best_file(arm: str = "") -> str:
    """The file with the configuration of a search's best trial, or that of one of its arms."""
    return f"best-{arm}.toml" if arm else "best.toml"


@dataclass(frozen=True)
class RunLayout:
    """The folders of one run; ``root`` is absolute or a remote address."""

    root: str
    entropies_name: str = "entropies"

    @property
    def prepared(self) -> str:
        """Tokenised examples."""
        return storage.join(self.root, "prepared")

    @property
    def entropies(self) -> str:
        """Reference entropies, shard by shard beside the prepared ones."""
        return storage.join(self.root, self.entropies_name)

    @property
    def checkpoints(self) -> str:
        """Parent of the fine-tuned checkpoints."""
        return storage.join(self.root, "checkpoints")

    @property
    def evaluations(self) -> str:
        """Parent of the evaluations."""
        return storage.join(self.root, "evaluations")

    @property
    def report(self) -> str:
        """The HTML report."""
        return storage.join(self.root, "report")

    def checkpoint(self, name: str) -> str:
        """Folder of the checkpoint ``name``."""
        return storage.join(self.checkpoints, name)

    def traces(self, name: str) -> str:
        """Folder of the generated traces ``name``."""
        return storage.join(self.root, "traces", name)

    @property
    def searches(self) -> str:
        """Parent of the searches."""
        return storage.join(self.root, "tune")

    def search(self, name: str) -> str:
        """Folder of the search ``name``."""
        return storage.join(self.searches, name)

    @property
    def drifts(self) -> str:
        """Parent of the drifts of the entropies."""
        return storage.join(self.root, "drift")

    def drift(self, name: str) -> str:
        """Folder of the drift of the entropies under the checkpoint ``name``."""
        return storage.join(self.drifts, name.rstrip("/").rpartition("/")[2])

    def evaluation(self, name: str) -> str:
        """Folder of the evaluation ``name``."""
        return storage.join(self.evaluations, name)


def layout(config: RunConfig) -> RunLayout:
    """The folders of the run that ``config`` describes."""
    return RunLayout(storage.resolve(config.run.output_dir), config.reference.name)


def shard_name(index: int) -> str:
    """File name of shard ``index``."""
    return f"part-{index:05d}.parquet"


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """``config`` with every local path made absolute: workers run in folders of their own.

    Names that are no path here (hub names, embedded models, names of the run's own checkpoints)
    stay as they are.
    """
    traces = replace(
        config.traces,
        model=_absolute_input(config.traces.model),
        sources=_absolute_sources(config.traces.sources),
    )
    evaluate = config.evaluate
    return replace(
        config,
        run=replace(config.run, output_dir=storage.resolve(config.run.output_dir)),
        data=replace(config.data, sources=_absolute_sources(config.data.sources)),
        traces=traces,
        model=replace(config.model, path=_absolute_input(config.model.path)),
        reference=replace(
            config.reference, checkpoint=_absolute_input(config.reference.checkpoint)
        ),
        evaluate=replace(
            evaluate,
            checkpoints=tuple(map(_absolute_input, evaluate.checkpoints)),
            data_dir=_absolute_file(evaluate.data_dir),
        ),
        merge=replace(config.merge, checkpoint=_absolute_input(config.merge.checkpoint)),
        report=replace(config.report, runs=tuple(map(storage.resolve, config.report.runs))),
        drift=replace(config.drift, checkpoint=_absolute_input(config.drift.checkpoint)),
    )


def _absolute_sources(sources: tuple[SourceSection, ...]) -> tuple[SourceSection, ...]:
    return tuple(
        replace(s, path=(_absolute_input if s.kind == "hub" else _absolute_file)(s.path))
        for s in sources
    )


def _absolute_file(path: str) -> str:
    return path if not path or "://" in path else os.path.abspath(Path(path).expanduser())


def _absolute_input(path: str) -> str:
    """An input is taken from the working folder, also in a submitted job, which uploads it."""
    if "/" not in path or "://" in path:
        return path  # a name: of an embedded model, or under checkpoints/
    local = Path(path).expanduser()
    return os.path.abspath(local) if local.exists() else path
