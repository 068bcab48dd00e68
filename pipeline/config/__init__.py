"""The typed configuration of a run: frozen dataclasses, read from TOML and checked at the start.

Importable without torch and without ray. A field marked ``metadata=RESOURCE`` says how a stage is
run, not what it computes: it stays out of the fingerprint that decides whether an output is reused.
"""

from dataclasses import dataclass

from pipeline.config.base import RESOURCE, STRICT, identity
from pipeline.config.data import DataSection, RunSection, SourceSection
from pipeline.config.evaluate import DriftSection, EvaluateSection, MergeSection, ReportSection
from pipeline.config.graph import GraphStage, JobSection, PipelineSection
from pipeline.config.method import (
    ModelSection,
    NoiseSection,
    ObjectiveSection,
    RatesSection,
    ReferenceSection,
)
from pipeline.config.traces import TracesSection
from pipeline.config.tracking import TrackingSection
from pipeline.config.train import LoraSection, TrainSection
from pipeline.config.tune import ArmSection, ParameterSection, TuneSection
from weft.method_config import RATED

__all__ = [
    "RESOURCE",
    "ArmSection",
    "DataSection",
    "DriftSection",
    "EvaluateSection",
    "GraphStage",
    "JobSection",
    "LoraSection",
    "MergeSection",
    "ModelSection",
    "NoiseSection",
    "ObjectiveSection",
    "ParameterSection",
    "PipelineSection",
    "RatesSection",
    "ReferenceSection",
    "ReportSection",
    "RunConfig",
    "RunSection",
    "SourceSection",
    "TracesSection",
    "TrackingSection",
    "TrainSection",
    "TuneSection",
    "identity",
]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The whole configuration; every job reads all of it, so that a typo anywhere stops any job."""

    __pydantic_config__ = STRICT

    run: RunSection = RunSection()
    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    rates: RatesSection = RatesSection()
    noise: NoiseSection = NoiseSection()
    objective: ObjectiveSection = ObjectiveSection()
    reference: ReferenceSection = ReferenceSection()
    train: TrainSection = TrainSection()
    lora: LoraSection = LoraSection()
    tune: TuneSection = TuneSection()
    evaluate: EvaluateSection = EvaluateSection()
    merge: MergeSection = MergeSection()
    drift: DriftSection = DriftSection()
    traces: TracesSection = TracesSection()
    report: ReportSection = ReportSection()
    tracking: TrackingSection = TrackingSection()
    pipeline: PipelineSection = PipelineSection()

    @property
    def is_rated(self) -> bool:
        """Whether the objective makes something of entropies, whatever they are: not for SFT."""
        return self.objective.name in RATED and self.rates.gamma != 0

    @property
    def depends_on_micro_batches(self) -> bool:
        """Whether how a step is cut and shared changes what it computes; else it does not."""
        return self.rates.beta_ref == "batch" or self.data.eos_policy == "pad_to_batch"

    @property
    def uses_entropies(self) -> bool:
        """Whether training reads the reference artifact: not for online entropies."""
        return self.is_rated and self.rates.entropies != "online"
