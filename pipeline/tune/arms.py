"""Several arms in one search: each proposes and compares by itself, and all share the cluster."""

from collections.abc import Mapping
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

ARM = "arm"
"""Key of the arm among the parameters that Ray Tune knows a trial by."""
FAILED = "failed"
"""Key of the reason in the last result of a trial that failed: raised, it would make Ray Tune try
the trial again, as it does with one whose process or machine is lost."""


class ArmSearcher(Searcher):  # type: ignore[misc]
    """Asks the arms in turn, as long as each has trials left."""

    def __init__(self, arms: Mapping[str, tuple[Searcher, int]], *, metric: str, mode: str) -> None:
        """``arms``: what proposes for each, and how many trials it has."""
        super().__init__(metric=metric, mode=mode)
        self._arms = {name: searcher for name, (searcher, _) in arms.items()}
        self._left = {name: count for name, (_, count) in arms.items()}
        self._arm_of: dict[str, str] = {}

    def set_search_properties(
        self, metric: str | None, mode: str | None, config: Any, **spec: Any
    ) -> bool:
        """The arms have their spaces already."""
        return True

    def suggest(self, trial_id: str) -> Any:
        """Parameters of the next trial, its arm among them; FINISHED when no arm has one left."""
        open_arms = [name for name, count in self._left.items() if count]
        if not open_arms:
            return Searcher.FINISHED
        name = max(open_arms, key=lambda arm: self._left[arm])  # of equal ones the first
        params = self._arms[name].suggest(trial_id)
        if params is None or params == Searcher.FINISHED:
            return params
        self._left[name] -= 1
        self._arm_of[trial_id] = name
        return {ARM: name, **params}

    def on_trial_result(self, trial_id: str, result: Any) -> None:
        """Passed on to the arm."""
        if FAILED not in result:
            self._arms[self._arm_of[trial_id]].on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        """Passed on to the arm."""
        if result and FAILED in result:
            result, error = None, True
        self._arms[self._arm_of[trial_id]].on_trial_complete(trial_id, result, error)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a search goes on by its records."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, see ``save``."""


class ArmScheduler(FIFOScheduler):  # type: ignore[misc]
    """Starts trials as they come; whether one goes on is up to the scheduler of its arm."""

    def __init__(self, arms: Mapping[str, TrialScheduler]) -> None:
        """``arms``: the scheduler of each."""
        super().__init__()
        self._arms = arms

    def set_search_properties(self, metric: str | None, mode: str | None, **spec: Any) -> bool:
        """Passed on to all arms."""
        found = [arm.set_search_properties(metric, mode, **spec) for arm in self._arms.values()]
        return super().set_search_properties(metric, mode, **spec) and all(found)

    def _of(self, trial: Any) -> TrialScheduler:
        return self._arms[trial.config[ARM]]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Passed on to the arm."""
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Passed on to the arm."""
        self._of(trial).on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: Any) -> str:
        """What the arm decides."""
        if FAILED in result:
            return str(TrialScheduler.CONTINUE)  # it ends by itself
        return str(self._of(trial).on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: Any) -> None:
        """Passed on to the arm."""
        if FAILED in result:
            self._of(trial).on_trial_error(tune_controller, trial)
        else:
            self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Passed on to the arm."""
        self._of(trial).on_trial_remove(tune_controller, trial)
