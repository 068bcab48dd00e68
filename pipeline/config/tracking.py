"""Where the metrics of trainings go, beside the run's own folder."""

from dataclasses import dataclass

from pipeline.config.base import STRICT


@dataclass(frozen=True, kw_only=True)
class TrackingSection:
    """Metrics of stage train for others to look at; TensorBoard's are always in the checkpoint."""

    __pydantic_config__ = STRICT

    mlflow_uri: str = ""
    """MLflow server, or database such as sqlite:////data/mlflow.db; empty: none."""
    mlflow_experiment: str = "weft"
    """Experiment that the training is a run of."""
    wandb_project: str = ""
    """Project at Weights & Biases, whose key is $WANDB_API_KEY; empty: none."""
    wandb_entity: str = ""
    """Team or user there; empty: the key's own."""
    prometheus: bool = True
    """Loss, NLL and tokens per second as metrics of Ray, for its dashboard and Prometheus."""
