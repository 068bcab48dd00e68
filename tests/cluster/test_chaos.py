"""Kills at random moments, drawn by a seed, through all stages: nothing is lost or repeated."""

import contextlib
import os
import random
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from pipeline.config_file import load_config
from pipeline.graph.arguments import arguments_of
from pipeline.graph.steps import steps_of
from pipeline.tables import text_table
from tests.cluster.conftest import Run
from tests.cluster.raylets import Raylets
from tests.cluster.workload import CONFIG, check_same, check_whole, rows
from tests.pipeline.processes import TIMEOUT_S, start

pytestmark = pytest.mark.cluster

SEED = 0
KILLS = {"prepare": 3, "reference": 6, "train": 8, "tune": 5, "evaluate": 4, "report": 1}
"""Of each step of a stage, as long as it runs; what is left over is for the steps after it."""
MOST_STARTS = 20
"""Of a step; more would not be the faults' doing."""
FAULTS = {"worker": 6, "driver": 3, "raylet": 2, "gcs": 1}
"""How often each comes, of twelve times."""
_NO_WORK = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")


@dataclass
class Tally:
    """What was done to the steps of a stage, and what became of it."""

    injected: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    steps: int = 0


class Chaos:
    """Runs steps, and kills what they consist of."""

    def __init__(self, cluster: Raylets, seed: int) -> None:
        self.cluster, self.left = cluster, 0
        # Which faults and when; whom they hit depends on who is there.
        self.draws, self.victims = random.Random(seed), random.Random(seed + 1)
        self.deck: list[str] = []

    def run(self, stage: str, arguments: list[str], tally: Tally) -> None:
        """The step to its end; started again after each end that is none."""
        self.left += KILLS[stage]
        tally.steps += 1
        lines: list[str] = []
        while True:
            tally.starts += 1
            assert tally.starts <= MOST_STARTS * tally.steps, f"{stage} never ends: {lines}"
            process = start(stage, CONFIG, *arguments, env=self.cluster.env)
            lines.clear()
            reader = threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True)
            reader.start()
            while self.left and process.poll() is None:
                time.sleep(self.draws.uniform(0.5, 3.0))
                if process.poll() is None:
                    fault = self.inject(process.pid)
                    tally.injected[fault] += 1
                    self.left -= 1
            process.wait(timeout=TIMEOUT_S)
            reader.join(timeout=TIMEOUT_S)
            if process.returncode == 0:
                return
            # Whatever ended it has a name.
            assert process.returncode in (1, 2, -signal.SIGKILL), lines
            assert process.returncode < 0 or any("rror" in line for line in lines), lines

    def inject(self, driver: int) -> str:
        """Kill something; what it was."""
        if not self.deck:
            self.deck = self.draws.sample([*FAULTS], counts=[*FAULTS.values()], k=12)
        fault = self.deck.pop()
        workers = [p for p in self.cluster.workers("ray::") if not _is_idle(p)]
        if fault == "worker" and workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.victims.choice(workers).kill()
        elif fault == "raylet":
            self.cluster.kill_node(self.victims.choice(self.cluster.nodes))
            self.cluster.add_node()
        elif fault == "gcs":
            self.cluster.restart_gcs()
        else:
            os.killpg(driver, signal.SIGKILL)
            fault = "driver"
        return fault


def _is_idle(process: psutil.Process) -> bool:
    try:
        return " ".join(process.cmdline()).startswith(_NO_WORK)
    except psutil.Error:
        return True


def test_thirty_kills_change_nothing(
    cluster: Raylets, undisturbed: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "run"
    chaos, tallies = Chaos(cluster, SEED), {stage: Tally() for stage in KILLS}
    for step in steps_of(load_config(CONFIG)):
        arguments = arguments_of(step, str(CONFIG))[2:]
        place = ("--run.output-dir", str(root))
        chaos.run(step.stage, [*arguments, *place], tallies[step.stage])
        check_whole(root)
    injected = sum((tally.injected for tally in tallies.values()), Counter())
    found, wanted = rows(root), rows(undisturbed.root)
    with capsys.disabled():
        print(f"\n{_table(tallies)}")
        print(
            f"seed {SEED}: {injected.total()} faults injected; rows lost "
            f"{(wanted - found).total()}, rows duplicated {(found - wanted).total()}"
        )
    assert injected.total() >= 30
    assert injected.keys() == FAULTS.keys()
    check_same(root, undisturbed.root)
    with capsys.disabled():
        print(f"all {injected.total()} survived: artifacts equal to an undisturbed run's")


def _table(tallies: dict[str, Tally]) -> str:
    header = ("stage", *FAULTS, "went on by itself", "started again")
    cells = [
        (
            stage,
            *(str(tally.injected[fault]) for fault in FAULTS),
            str(tally.injected.total() - (tally.starts - tally.steps)),
            str(tally.starts - tally.steps),
        )
        for stage, tally in tallies.items()
    ]
    return text_table(header, cells)
