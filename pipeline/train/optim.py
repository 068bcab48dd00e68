"""Optimizers and learning-rate schedules, all from libraries: torch's AdamW and Muon, transformers'
schedules."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

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

    def skip(self) -> None:
        """Let a step pass without an update: the learning rates go on."""
        for scheduler in self.schedulers:
            scheduler.step()

    def state_of(self, parameter: nn.Parameter) -> dict[str, Tensor]:
        """What the optimizer of ``parameter`` keeps with it, to be read and changed."""
        owner = next(o for o in self.optimizers if _owns(o, parameter))
        kept: dict[str, Tensor] = owner.state[parameter]
        return kept

    def schedules(self) -> list[dict[str, Any]]:
        """State of the schedules, plain values only."""
        return [
            {
                "scheduler": {k: v for k, v in s.state_dict().items() if k != "lr_lambdas"},
                "learning_rates": [float(group["lr"]) for group in o.param_groups],
            }
            for o, s in zip(self.optimizers, self.schedulers, strict=True)
        ]

    def restore_schedules(self, state: list[dict[str, Any]]) -> None:
        """Bring the schedules to what ``schedules`` returned."""
        for optimizer, scheduler, values in zip(
            self.optimizers, self.schedulers, state, strict=True
        ):
            scheduler.load_state_dict(values["scheduler"] | {"lr_lambdas": [None]})
            for group, rate in zip(optimizer.param_groups, values["learning_rates"], strict=True):
                group["lr"] = rate


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


def _owns(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> bool:
    return any(parameter is own for group in optimizer.param_groups for own in group["params"])
