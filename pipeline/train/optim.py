"""Optimizers and learning-rate schedules, all from libraries: torch's AdamW and Muon, transformers'
schedules."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipeline.config import TrainSection


@dataclass
class Optimizers:
    """One or two optimizers that step together, each with its schedule."""

    optimizers: list[torch.optim.Optimizer]
    schedulers: list[Any]

    def step(self) -> None:
        """Update the parameters, then the learning rates."""
        for optimizer in self.optimizers:
            optimizer.step()
        for scheduler in self.schedulers:
            scheduler.step()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    @property
    def learning_rate(self) -> float:
        """Current learning rate of AdamW, the last of the optimizers."""
        return float(self.schedulers[-1].get_last_lr()[0])

    def state_dict(self) -> dict[str, Any]:
        """State of all optimizers and schedules, tensors and plain values only."""
        return {
            "optimizers": [o.state_dict() for o in self.optimizers],
            "schedulers": [_plain(s.state_dict()) for s in self.schedulers],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        for scheduler, values in zip(self.schedulers, state["schedulers"], strict=True):
            scheduler.load_state_dict(values)


def build_optimizers(model: nn.Module, train: TrainSection, num_steps: int) -> Optimizers:
    """The optimizers of ``train`` for all trainable parameters of ``model``.

    ``muon`` takes the two-dimensional weights inside the blocks; embeddings, head and norms stay
    with AdamW, as Muon's authors advise. Norms and other vectors have no weight decay.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if is_block_matrix(name, p)]
    optimizers: list[torch.optim.Optimizer] = []
    taken: set[int] = set()
    if train.optimizer == "muon":
        optimizers.append(
            torch.optim.Muon(matrices, lr=train.muon_learning_rate, weight_decay=train.weight_decay)
        )
        taken = {id(p) for p in matrices}
    rest = [p for _, p in named if id(p) not in taken]
    optimizers.append(_adamw(rest, train))
    return Optimizers(optimizers, [_schedule(o, train, num_steps) for o in optimizers])


def is_block_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether this is a matrix of a numbered block: ``blocks.0.mlp.up_proj.weight``."""
    return parameter.ndim == 2 and any(part.isdigit() for part in name.split("."))


def _adamw(parameters: list[nn.Parameter], train: TrainSection) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": train.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=train.learning_rate,
        betas=(train.beta1, train.beta2),
        fused=True,
    )


def _schedule(optimizer: torch.optim.Optimizer, train: TrainSection, num_steps: int) -> Any:
    from transformers import get_scheduler

    return get_scheduler(
        train.schedule,
        optimizer,
        num_warmup_steps=min(train.warmup_steps, num_steps),
        num_training_steps=num_steps,
    )


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    """Without the schedule's functions, which ``weights_only`` loading refuses."""
    return {k: v for k, v in state.items() if k != "lr_lambdas"} | {
        "lr_lambdas": [None] * len(state.get("lr_lambdas", []))
    }
