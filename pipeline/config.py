"""The typed configuration of a run: frozen dataclasses, read from TOML and checked at the start.

Importable without torch and without ray. A field marked ``metadata=RESOURCE`` says how a stage is
run, not what it computes: it stays out of the fingerprint that decides whether an output is reused.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro
from pydantic import ConfigDict

RESOURCE = {"resource": True}
_FORBID = ConfigDict(extra="forbid", strict=True)


@dataclass(frozen=True, kw_only=True)
class RunSection:
    """Where a run lives, and its seed."""

    __pydantic_config__ = _FORBID

    name: str = "tiny"
    """Name of the run, shown in the report."""
    output_dir: str = field(default="runs/tiny", metadata=RESOURCE)
    """Folder of all artifacts: a local path, or any fsspec address such as s3://bucket/run."""
    seed: int = 0
    """Seed of initial weights, order of examples and noise."""


@dataclass(frozen=True, kw_only=True)
class SourceSection:
    """One source of training examples."""

    __pydantic_config__ = _FORBID

    kind: Literal["task", "pretraining", "files", "hub"]
    """task: generated problems with solver traces; pretraining: generated text; files: JSON lines,
    JSON, CSV or Parquet; hub: what Hugging Face datasets loads by name, or from a folder."""
    name: str = ""
    """Name in the prepared rows and the report; empty: that of the task, the file or the hub."""
    task: str = ""
    """Task of generated problems (kind task): sudoku or countdown."""
    count: int = 0
    """Number of generated examples (kinds task and pretraining)."""
    path: str = ""
    """Kind files: a file, a folder or a pattern such as s3://bucket/*.parquet, also compressed.
    Kind hub: a name such as simplescaling/s1K, or a folder."""
    subset: str = ""
    """Configuration of the data set (kind hub); empty: its only one."""
    split: str = "train"
    """Split of the data set (kind hub)."""
    revision: str = ""
    """Branch, tag or commit of the data set (kind hub); empty: its newest."""
    streaming: bool = field(default=False, metadata=RESOURCE)
    """Read the data set as it is downloaded, with nothing left on disk (kind hub)."""
    format: Literal["columns", "s1k", "s1k-1.1", "openr1-math", "gsm8k"] = "columns"
    """Columns (kinds files and hub): of a known data set, or those named below."""
    prompt_column: str = "prompt"
    """Column with the user's turn (format columns). Empty means text without a prompt."""
    response_column: str = "response"
    """Column with the assistant's turn (format columns), or with its answer alone; see below."""
    reasoning_column: str = ""
    """Column with the reasoning (format columns): the turn is then made of it and the answer."""
    correct_column: str = ""
    """Column with a verdict: rows that it does not call right are kept out. Empty: no filter."""
    solution_column: str = ""
    """Column with the right answer: rows whose answer math-verify finds to be another are kept
    out. Empty: no filter."""
    max_examples: int = 0
    """Examples taken, a choice by data.seed of those that can be used; 0: all of them."""
    weight: float = 0.0
    """Share in the mixture, relative to the weights of the other sources; 0: all of it, whatever
    the others give."""


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """What is trained on, and how it becomes tokens (stage prepare)."""

    __pydantic_config__ = _FORBID

    sources: tuple[SourceSection, ...] = (
        SourceSection(kind="task", task="sudoku", count=1000),
        SourceSection(kind="task", task="countdown", count=1000),
    )
    """The sources, in order; a TOML array of tables [[data.sources]]."""
    seed: int = 0
    """Seed of the generated problems, and of the choice of examples where not all are taken."""
    prompt_style: Literal["compact", "d1"] = "compact"
    """Form of the task prompts: the published one of d1, or a short one for small contexts."""
    max_length: int = 256
    """Longest prompt plus response in tokens, the closing EOS included."""
    too_long: Literal["reject", "truncate"] = "reject"
    """What happens to an example over max_length: kept out with its reason, or cut, and counted."""
    min_response_tokens: int = 0
    """Shortest response in tokens, the closing EOS included; 0: no limit."""
    languages: tuple[str, ...] = ()
    """Languages kept, as ISO 639-1 codes such as en; empty: all. Of texts, not generated ones."""
    max_overlap: float = 0.3
    """Share of a benchmark question's 8-grams of words that a text may contain; 0 refuses any one
    in common, 1 turns it off."""
    near_duplicates: float = 0.0
    """Similarity (Jaccard, of 5-grams of words) from which the later of two texts is kept out;
    0: off. Not of generated ones."""
    near_duplicates_of: Literal["question", "example"] = "question"
    """What is compared: the question, or question and response."""
    eos_policy: Literal["random_tail", "pad_to_max", "pad_to_batch", "one"] = "random_tail"
    """What follows the response in training; see docs/method.md."""
    tail_max: int = 32
    """Longest tail of further EOS tokens under random_tail; lengths are uniform."""
    num_shards: int = 8
    """Number of Parquet shards; the unit of parallel work and of resuming. Of a large data set one
    for some thousand examples."""
    num_cpus: float = field(default=1.0, metadata=RESOURCE)
    """CPUs that one prepare task reserves."""


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """The denoiser that is fine-tuned."""

    __pydantic_config__ = _FORBID

    path: str = "tiny"
    """Folder or hub name of a checkpoint; tiny is the embedded denoiser."""
    init: Literal["pretrained", "random"] = "pretrained"
    """random: keep the architecture and tokenizer of path, draw the weights anew."""
    trust_remote_code: bool = False
    """Whether code that came with a checkpoint may run; nothing built in needs it."""


@dataclass(frozen=True, kw_only=True)
class RatesSection:
    """From reference entropies to masking rates (method.md, "Terms")."""

    __pydantic_config__ = _FORBID

    gamma: float = 0.5
    """Exponent of the entropy; 0 is plain SFT."""
    beta_ref: Literal["sequence", "batch", "dataset"] = "sequence"
    """Scope of the mean rate that every rate is divided by."""
    rate_min: float = 0.1
    """Lower clamp of the relative rate."""
    rate_max: float = 10.0
    """Upper clamp of the relative rate."""
    tail: Literal["one", "entropy"] = "one"
    """Rate of the tail EOS tokens: 1 and outside beta_ref, or by the formula."""
    entropies: Literal["frozen", "refreshed", "online"] = "frozen"
    """frozen: read from the reference artifact; refreshed: from it at first, then recomputed beside
    the training; online: recomputed at each step (the paper)."""
    refresh_epochs: int = 1
    """Entropies are recomputed with the weights after every so many epochs (refreshed)."""
    refresh_lag: int = 1
    """Epochs of training from those weights on until their entropies are used (refreshed)."""


@dataclass(frozen=True, kw_only=True)
class NoiseSection:
    """The noise level t of each example."""

    __pydantic_config__ = _FORBID

    eps: float = 1e-3
    """Smallest noise level: t is uniform on (eps, 1)."""
    stratified: bool = True
    """Compose every optimizer step of evenly spread noise levels."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveSection:
    """Weights and normaliser of the loss."""

    __pydantic_config__ = _FORBID

    weighting: Literal["paper", "elbo", "partial"] = "paper"
    """Weight of a masked token: 1/t_i, the exact ELBO weight, or 1/t_i**alpha."""
    alpha: float = 0.5
    """Exponent of the weighting partial."""
    normalizer: Literal["tokens", "sequence", "masked"] = "tokens"
    """What the summed loss of an optimizer step is divided by."""


@dataclass(frozen=True, kw_only=True)
class ReferenceSection:
    """The frozen pass that yields the entropies (stage reference)."""

    __pydantic_config__ = _FORBID

    checkpoint: str = ""
    """Reference model; empty means model.path."""
    estimator: Literal["full_mask", "expected", "nll", "autoregressive"] = "full_mask"
    """full_mask: one pass (the paper); expected: mean over noise levels; nll: surprisal;
    autoregressive: next-token entropies of a model with the same tokenizer, by vLLM."""
    num_levels: int = 4
    """Passes of the estimator expected."""
    tail: int = 8
    """Further EOS positions masked behind the response in the reference pass."""
    top_logprobs: int = 20
    """Most likely tokens that an autoregressive entropy is computed from; others are bounded."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of weights and activations; entropies are float32 in any case."""
    batch_tokens: int = field(default=16384, metadata=RESOURCE)
    """Token budget of one forward pass, padding included unless packed."""
    packing: bool = field(default=False, metadata=RESOURCE)
    """Take padding out before the network runs; attention stays within each example."""
    head_chunk_mib: int = field(default=128, metadata=RESOURCE)
    """Logits held at once, in MiB of float32."""
    max_rejected: int = field(default=10, metadata=RESOURCE)
    """Examples that may have no finite entropies, and are left out of training."""
    num_actors: int = field(default=1, metadata=RESOURCE)
    """Model replicas."""
    num_cpus: float = field(default=2.0, metadata=RESOURCE)
    """CPUs of one actor."""
    num_gpus: float = field(default=0.0, metadata=RESOURCE)
    """GPUs of one actor."""


@dataclass(frozen=True, kw_only=True)
class TrainSection:
    """Fine-tuning (stage train)."""

    __pydantic_config__ = _FORBID

    name: str = field(default="weft", metadata=RESOURCE)
    """Folder of the checkpoint under checkpoints/."""
    epochs: int = 10
    """Passes over the data, unless max_steps ends training sooner."""
    max_steps: int = 0
    """Optimizer steps at most; 0 means no limit."""
    batch_size: int = 64
    """Examples of one optimizer step, over all workers and micro-batches."""
    micro_batch_tokens: int = field(default=4096, metadata=RESOURCE)
    """Token budget of one forward and backward pass, padding included unless packed."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon: torch.optim.Muon for the matrices of the blocks, AdamW for the rest."""
    learning_rate: float = 1e-3
    """Peak learning rate of AdamW."""
    muon_learning_rate: float = 0.02
    """Peak learning rate of Muon."""
    beta1: float = 0.9
    """AdamW's first moment decay."""
    beta2: float = 0.95
    """AdamW's second moment decay."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices; norms have none."""
    max_grad_norm: float = 1.0
    """Clipping of the global gradient norm; 0 turns it off."""
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = "linear"
    """Learning-rate schedule after the warm-up."""
    warmup_steps: int = 20
    """Optimizer steps of linear warm-up."""
    precision: Literal["float32", "bfloat16", "pure_bfloat16"] = "float32"
    """bfloat16: computed in it, trained weights kept in float32; pure_bfloat16: all of it."""
    packing: bool = field(default=False, metadata=RESOURCE)
    """Take padding out before the network runs; attention stays within each example."""
    head_chunk_mib: int = field(default=128, metadata=RESOURCE)
    """Logits held at once in the loss, in MiB of float32."""
    gradient_checkpointing: bool = field(default=False, metadata=RESOURCE)
    """Recompute the activations of each block in the backward pass."""
    parallelism: Literal["ddp", "fsdp"] = field(default="ddp", metadata=RESOURCE)
    """ddp: each worker has all weights; fsdp: they are spread over the workers (FSDP2)."""
    cpu_offload: bool = field(default=False, metadata=RESOURCE)
    """Under fsdp on GPUs: weights, gradients and optimizer state stay in main memory."""
    compile: bool = field(default=False, metadata=RESOURCE)
    """Compile the blocks with torch.compile."""
    num_workers: int = field(default=1, metadata=RESOURCE)
    """Data-parallel workers."""
    cpus_per_worker: float = field(default=2.0, metadata=RESOURCE)
    """CPUs of one worker."""
    use_gpu: bool = field(default=False, metadata=RESOURCE)
    """One GPU for each worker."""
    device_memory_gib: float = field(default=0.0, metadata=RESOURCE)
    """Memory that a worker may use; a run that needs more is refused. 0: all that there is."""
    checkpoint_every: int = field(default=200, metadata=RESOURCE)
    """Optimizer steps between checkpoints to resume from."""
    export_every: int = field(default=0, metadata=RESOURCE)
    """Optimizer steps between checkpoints that are kept, to evaluate or measure; 0: none."""
    log_every: int = field(default=10, metadata=RESOURCE)
    """Optimizer steps between logged metrics."""
    max_skipped_steps: int = field(default=10, metadata=RESOURCE)
    """Steps of a run that may be skipped because their gradient is not finite."""
    max_failures: int = field(default=3, metadata=RESOURCE)
    """How often a broken worker group is started again."""


@dataclass(frozen=True, kw_only=True)
class LoraSection:
    """A LoRA adapter instead of all weights; the sizes are those of d1's recipe."""

    __pydantic_config__ = _FORBID

    enabled: bool = False
    """Train an adapter, and save it alone."""
    rank: int = 128
    """Rank of the two matrices of an adapted layer."""
    alpha: int = 256
    """Their product is scaled by alpha / rank."""
    dropout: float = 0.05
    """Dropout before the first matrix, while training."""
    target_modules: tuple[str, ...] = ()
    """Last parts of the names of adapted layers; empty: query, key and value projections."""


@dataclass(frozen=True, kw_only=True)
class EvaluateSection:
    """Decoding and grading (stage evaluate)."""

    __pydantic_config__ = _FORBID

    checkpoints: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--checkpoint"])] = ()
    """Checkpoints: names under checkpoints/, folders, addresses or hub names; base is model.path,
    which is also what none means. Each gets an evaluation of its own."""
    name: str = ""
    """Folder under evaluations/; empty: the checkpoint's name, with the data folder's if given.
    Several lengths add theirs, and several checkpoints theirs."""
    tasks: tuple[str, ...] = ("sudoku", "countdown")
    """Tasks to evaluate."""
    data_dir: Annotated[str, tyro.conf.arg(aliases=["--data-dir"])] = ""
    """Folder of benchmark files; empty: puzzles of the generators' own held-out set, other tasks
    from the hub."""
    num_items: int = 128
    """Generated held-out problems of each puzzle."""
    benchmark_items: int = 0
    """Items of each benchmark, the first ones of the protocol's choice; 0 means all."""
    seed: int = 0
    """Seed of decoding at temperature above 0 and of random remasking."""
    engine: Literal["denoiser", "vllm"] = "denoiser"
    """vllm: for the models that it serves, which are prompted and graded alike."""
    protocol: Literal["own", "d1", "llada"] = "own"
    """Published settings, which fix prompts, items and decoder; see docs/evaluation.md. own: what
    the keys below say."""
    prompt_style: Literal["protocol", "compact", "d1", "llada"] = "protocol"
    """Form of the prompts; protocol: that of the protocol, own has compact ones."""
    gen_lengths: tuple[int, ...] = ()
    """Tokens of the canvas; each length is an evaluation of its own. Empty: the protocol's, for own
    128."""
    block_length: int = 0
    """Tokens of one semi-autoregressive block; 0: the protocol's, for own 32."""
    steps: int = 0
    """Denoising steps over the whole canvas; 0: the protocol's, for own half of its length."""
    temperature: float = 0.0
    """Temperature of Gumbel sampling; 0 is greedy."""
    remasking: Literal["low_confidence", "random"] = "low_confidence"
    """Which predictions are kept at each step."""
    cfg_scale: float = 0.0
    """Scale of classifier-free guidance; 0 is off."""
    threshold: float = 0.0
    """A step commits every prediction of at least this probability, instead of an even share; 0 is
    off."""
    cache: Literal["none", "prefix", "dual"] = "none"
    """Keep keys and values within a block: of what is before it, or also of what is behind."""
    early_stop: bool = True
    """Stop a canvas once EOS is committed and everything before it."""
    logits_eos_inf: bool = False
    """LLaDA's switch of this name: EOS is never predicted."""
    confidence_eos_eot_inf: bool = False
    """LLaDA's switch of this name: the end of a turn is committed last, greedily EOS too."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of weights and activations."""
    allow_code_execution: Annotated[bool, tyro.conf.arg(aliases=["--allow-code-execution"])] = (
        field(default=False, metadata=RESOURCE)
    )
    """Run what a model wrote, which the tasks humaneval and mbpp are graded by."""
    interval: Literal["wilson", "bootstrap"] = "wilson"
    """Method of the 95 % intervals."""
    grader_timeout_s: float = field(default=1.0, metadata=RESOURCE)
    """Seconds for the verdict on one generation; one that needs more is tried once again, for five
    times as long."""
    batch_size: int = field(default=64, metadata=RESOURCE)
    """Items decoded together by one actor."""
    num_actors: int = field(default=1, metadata=RESOURCE)
    """Model replicas."""
    num_cpus: float = field(default=2.0, metadata=RESOURCE)
    """CPUs of one actor."""
    num_gpus: float = field(default=0.0, metadata=RESOURCE)
    """GPUs of one actor."""


@dataclass(frozen=True, kw_only=True)
class MergeSection:
    """A LoRA adapter becomes a checkpoint of its own (stage merge)."""

    __pydantic_config__ = _FORBID

    checkpoint: str = ""
    """Adapter folder, or a name under checkpoints/."""
    name: str = ""
    """Folder under checkpoints/ to write; empty: the adapter's name and -merged."""


@dataclass(frozen=True, kw_only=True)
class TracesSection:
    """New traces from an autoregressive model by vLLM (stage traces)."""

    __pydantic_config__ = _FORBID

    name: str = "traces"
    """Folder under traces/."""
    model: str = ""
    """The autoregressive model: a folder or hub name with safetensors."""
    sources: tuple[SourceSection, ...] = ()
    """Where the questions are from, as [[data.sources]]; responses there are not looked at, but the
    answer of the format gsm8k and solution_column say what is right."""
    instruction: str = "Please reason step by step, and put your final answer within \\boxed{}."
    """What follows a question; puzzles have d1's own instructions."""
    num_samples: int = 4
    """Samples of each question."""
    temperature: float = 0.8
    """Temperature of sampling."""
    top_p: float = 0.95
    """Share of the probability that is sampled from."""
    max_tokens: int = 2048
    """Longest sample in tokens; one that does not end by then is no trace."""
    max_model_len: int = 4096
    """Longest question and sample together, in tokens."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    """In float32 a seed gives the same text whatever is generated beside it."""
    seed: int = 0
    """Seed of the samples."""
    verify: bool = True
    """Keep only what the task's grader or math-verify finds right."""
    keep: int = 1
    """Different traces kept of each question."""
    prefer: Literal["shortest", "longest", "first"] = "shortest"
    """Which of the right ones."""
    num_shards: int = 8
    """Number of Parquet shards, the unit of resuming."""
    batch_size: int = field(default=64, metadata=RESOURCE)
    """Samples generated together by one engine."""
    num_actors: int = field(default=1, metadata=RESOURCE)
    """Engines."""
    num_cpus: float = field(default=2.0, metadata=RESOURCE)
    """CPUs of one engine."""
    num_gpus: int = field(default=0, metadata=RESOURCE)
    """GPUs of one engine, which share the model."""


@dataclass(frozen=True, kw_only=True)
class DriftSection:
    """Entropies under the weights of a training, compared with the frozen ones (stage drift)."""

    __pydantic_config__ = _FORBID

    checkpoint: str = ""
    """The training: a name under checkpoints/, or a folder."""
    num_examples: int = 256
    """Examples compared, a choice by data.seed."""


@dataclass(frozen=True, kw_only=True)
class ReportSection:
    """The HTML report (stage report)."""

    __pydantic_config__ = _FORBID

    baseline: str = "sft"
    """Evaluation that the others are compared with, item by item."""
    num_examples: int = 2
    """Traces and generations shown of each kind."""
    num_failures: int = 20
    """Wrong answers of each task and evaluation that can be looked through."""
    runs: tuple[str, ...] = ()
    """Output folders of further runs, whose checkpoints and evaluations are shown as well."""


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The whole configuration; every job reads all of it, so that a typo anywhere stops any job."""

    __pydantic_config__ = _FORBID

    run: RunSection = RunSection()
    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    rates: RatesSection = RatesSection()
    noise: NoiseSection = NoiseSection()
    objective: ObjectiveSection = ObjectiveSection()
    reference: ReferenceSection = ReferenceSection()
    train: TrainSection = TrainSection()
    lora: LoraSection = LoraSection()
    evaluate: EvaluateSection = EvaluateSection()
    merge: MergeSection = MergeSection()
    drift: DriftSection = DriftSection()
    traces: TracesSection = TracesSection()
    report: ReportSection = ReportSection()


def identity(section: Any) -> dict[str, Any]:
    """The fields of ``section`` that decide what a stage computes."""
    values = dataclasses.asdict(section)
    resources = {f.name for f in dataclasses.fields(section) if f.metadata.get("resource")}
    return {name: value for name, value in values.items() if name not in resources}
