"""Random access to the prepared examples and their reference entropies."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.artifacts import Manifest
from pipeline.config import RunConfig
from pipeline.errors import ArtifactError
from weft.batch import Batch, Example, collate

_NO_LIST = -1


@dataclass(frozen=True)
class TrainingData:
    """The examples of a run, memory-mapped; ``table`` is a Hugging Face data set."""

    table: Any
    example_ids: Sequence[str]
    lengths: np.ndarray
    """Tokens of prompt and response, [N] int64."""
    has_entropies: bool
    rows: np.ndarray | None = None
    """Where each example is in ``table``, [N] int64; None: they are its rows."""

    def subset(self, is_chosen: np.ndarray) -> "TrainingData":
        """The examples of which ``is_chosen`` [N] bool says so, in their order."""
        rows = np.arange(len(self)) if self.rows is None else self.rows
        ids = [name for name, chosen in zip(self.example_ids, is_chosen, strict=True) if chosen]
        return dataclasses.replace(
            self, rows=rows[is_chosen], example_ids=ids, lengths=self.lengths[is_chosen]
        )

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.example_ids)

    def dataset_beta_ref(self, gamma: float) -> float:
        """Mean of ``entropy ** gamma`` over all response tokens, the scope ``dataset``."""
        total, count = 0.0, 0
        column = self.table.data.column("entropy")
        if self.rows is not None and len(self.rows) < len(column):
            column = column.take(pa.array(self.rows))  # neither the held-out ones nor null
        for chunk in column.chunks:
            values = chunk.flatten().to_numpy().astype(np.float64)
            total += float(np.sum(values**gamma))
            count += len(values)
        return total / count

    def example(self, index: int) -> Example:
        """Example number ``index``."""
        row = self.table[index if self.rows is None else int(self.rows[index])]
        return Example(
            example_id=row["example_id"],
            prompt_ids=row["prompt_ids"],
            response_ids=row["response_ids"],
            entropy=row.get("entropy"),
            tail_entropy=row.get("tail_entropy"),
        )


def load_training_data(
    prepared: str, manifest: Manifest, entropies: str | None, entropy_manifest: Manifest | None
) -> TrainingData:
    """Map the shards of both artifacts side by side.

    Raises ArtifactError when a row's entropies are not those of the example beside it.
    """
    table = _map_shards(prepared, manifest)
    if entropies is not None and entropy_manifest is not None:
        table = _join(table, _map_shards(entropies, entropy_manifest), entropies)
    prompts = _list_lengths(table, "prompt_ids")
    responses = _list_lengths(table, "response_ids")
    rows = np.arange(len(table))
    if entropies is not None:
        found = _list_lengths(table, "entropy")
        _check_lengths(entropies, responses, np.where(found == _NO_LIST, responses, found))
        rows = np.flatnonzero(found != _NO_LIST)
    ids = table.data.column("example_id").to_pylist()
    return TrainingData(
        table=table,
        example_ids=[ids[row] for row in rows],
        lengths=(prompts + responses)[rows],
        has_entropies=entropies is not None,
        rows=rows,
    )


def make_batch(
    data: TrainingData,
    indices: Sequence[int],
    config: RunConfig,
    *,
    seed: int,
    epoch: int,
    eos_token_id: int,
) -> Batch:
    """The batch of the examples ``indices`` with the noise of ``seed`` and ``epoch``."""
    return collate(
        [data.example(index) for index in indices],
        seed=seed,
        epoch=epoch,
        eps=config.noise.eps,
        eos_policy=config.data.eos_policy,
        tail_max=config.data.tail_max,
        max_length=config.data.max_length,
        eos_token_id=eos_token_id,
    )


def cache_folder(manifest: Manifest) -> Path:
    """Where this node has its copy of the artifact's rows."""
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / f"weft-{manifest.content}"


def _map_shards(folder: str, manifest: Manifest) -> Any:
    import datasets

    names = [name for name in manifest.shards if manifest.files[name].num_rows]
    cache = cache_folder(manifest)
    datasets.disable_progress_bars()
    return datasets.Dataset.from_parquet(
        [storage.join(folder, name) for name in names], cache_dir=str(cache)
    )


def _join(table: Any, other: Any, folder: str) -> Any:
    import datasets

    if table.data.column("example_id").to_pylist() != other.data.column("example_id").to_pylist():
        raise ArtifactError(
            f"{folder}: its rows are not those of the prepared data; "
            f"run jobs/reference.py --overwrite"
        )
    return datasets.concatenate_datasets([table, other.remove_columns("example_id")], axis=1)


def _list_lengths(table: Any, column: str) -> np.ndarray:
    """Lengths of the lists; ``_NO_LIST`` for null."""
    chunks = table.data.column(column).chunks
    lengths = [chunk.value_lengths().fill_null(_NO_LIST).to_numpy() for chunk in chunks]
    return np.concatenate(lengths).astype(np.int64)


def _check_lengths(folder: str, wanted: np.ndarray, got: np.ndarray) -> None:
    wrong = np.flatnonzero(wanted != got)
    if wrong.size:
        row = int(wrong[0])
        raise ArtifactError(
            f"{folder}: row {row}: wanted {wanted[row]} entropies (one per response token), "
            f"got {got[row]}; run jobs/reference.py --overwrite"
        )
