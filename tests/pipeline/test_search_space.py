"""The search space: what it means, and what is refused before anything runs."""

import dataclasses
from pathlib import Path

import pytest

from pipeline.config import RunConfig
from pipeline.config_checks import check_config
from pipeline.config_file import format_config, load_config, parse_config
from pipeline.errors import ConfigError
from pipeline.search_space import arms, combinations, configured, default_point, refuse_impossible

GAMMA = {"key": "rates.gamma", "values": [0, 0.5, 1.0]}
WEIGHTING = {
    "key": "objective.weighting",
    "values": ["paper", "partial"],
    "when": "rates.gamma = [0.5, 1.0]",
}
ALPHA = {
    "key": "objective.alpha",
    "low": 0.25,
    "high": 1.0,
    "when": "objective.weighting = 'partial'",
}
CART = {"key": "train.epochs", "values": [1], "when": "objective.weighting = 'partial'"}
RATE = {"key": "train.learning_rate", "low": 1e-4, "high": 1e-2, "log": True}
EPOCHS = {"key": "train.epochs", "low": 2, "high": 5}


def config_of(*space: dict, **tune: object) -> RunConfig:
    return parse_config({"tune": {"space": list(space), **tune}}, where="test")


def active(config: RunConfig, drawn: dict, arm: int = 0) -> dict:
    found: dict = {}
    for parameter in arms(config)[arm].active(found):
        found[parameter.key] = drawn[parameter.key]
    return found


def test_a_condition_decides_what_is_asked() -> None:
    config = config_of(GAMMA, WEIGHTING, ALPHA)
    drawn = {"rates.gamma": 0, "objective.weighting": "partial", "objective.alpha": 0.5}
    assert active(config, drawn) == {"rates.gamma": 0}
    assert active(config, drawn | {"rates.gamma": 1.0}) == drawn | {"rates.gamma": 1.0}
    paper = drawn | {"rates.gamma": 0.5, "objective.weighting": "paper"}
    assert active(config, paper) == {"rates.gamma": 0.5, "objective.weighting": "paper"}


def test_an_arm_fixes_keys_and_searches_the_others() -> None:
    fixed = [
        {"name": "weft", "set": ["rates.gamma = 0.5", "objective.normalizer = 'sequence'"]},
        {"name": "sft", "set": ["rates.gamma = 0"]},
    ]
    config = config_of(GAMMA, WEIGHTING, ALPHA, RATE, arms=fixed)
    weft, sft = arms(config)
    assert weft.fixed == {"rates.gamma": 0.5, "objective.normalizer": "sequence"}
    keys = ["objective.weighting", "objective.alpha", "train.learning_rate"]
    assert [p.key for p in weft.parameters] == keys
    # Under gamma 0 there is no weighting to search, and so no alpha.
    assert [p.key for p in sft.parameters] == ["train.learning_rate"]
    assert arms(config_of(RATE))[0].name == "search"


def test_values_are_set_with_the_types_of_their_keys() -> None:
    config = RunConfig()
    found = configured(config, {"rates.gamma": 1, "train.epochs": 3, "objective.name": "lift"})
    assert (found.rates.gamma, found.train.epochs, found.objective.name) == (1.0, 3, "lift")
    assert isinstance(found.rates.gamma, float)
    assert dataclasses.replace(found, rates=config.rates).noise == config.noise
    with pytest.raises(ConfigError, match=r"x: train.epochs: wanted a valid integer, got 2.5"):
        configured(config, {"train.epochs": 2.5}, where="x")


def test_the_first_trial_is_the_configuration_as_it_stands() -> None:
    config = config_of(GAMMA, WEIGHTING, ALPHA, RATE, EPOCHS)
    config = configured(config, {"train.epochs": 4})
    point = default_point(config, arms(config)[0])
    assert point == {
        "rates.gamma": 0.5,
        "objective.weighting": "paper",
        "train.learning_rate": 1e-3,
        "train.epochs": 4,
    }
    far = configured(config, {"train.learning_rate": 1.0})
    assert default_point(far, arms(far)[0]) is None


@pytest.mark.parametrize(
    ("space", "parts"),
    [
        ([{"key": "rates.gama", "values": [1.0]}], ["space[0].key", "did you mean rates.gamma?"]),
        (
            [{"key": "train.num_workers", "values": [1]}],
            ["space[0].key", "decides what is trained"],
        ),
        ([{"key": "data.seed", "values": [1]}], ["space[0].key", "decides what is trained"]),
        ([{"key": "rates.gamma"}], ["space[0]", "either values or low and high of rates.gamma"]),
        ([RATE | {"values": [1e-3]}], ["space[0]", "either values or low and high"]),
        ([RATE | {"low": 0.1}], ["low < high, got 0.1 and 0.01"]),
        ([RATE | {"low": -0.1}], ["space[0].low", "positive number with log, got -0.1"]),
        ([{"key": "rates.tail", "low": 0, "high": 1}], ["rates.tail is no number; wanted values"]),
        (
            [{"key": "rates.gamma", "values": ["a"]}],
            ["values: rates.gamma: wanted", "'a'"],
        ),
        ([{"key": "rates.gamma", "values": [1.0, 1.0]}], ["wanted each once, got [1.0, 1.0]"]),
        ([GAMMA, RATE, GAMMA], ["space[2].key", "searched twice"]),
        ([{"key": "train.held_out", "values": [8]}], ["what is held out is tune.held_out"]),
        (
            [{"key": "lora.rank", "low": 8, "high": 64}],
            ["lora.rank changes nothing but with lora.enabled = True, which no trial has"],
        ),
        (
            [{"key": "objective.alpha", "low": 0.2, "high": 1.0}],
            ["changes nothing but with objective.weighting = 'partial'"],
        ),
        ([CART], ["space[0].when", "searched above (none is), got objective.weighting"]),
        ([WEIGHTING, GAMMA], ["space[0].when", "searched above"]),
        (
            [GAMMA, WEIGHTING | {"when": "rates.gamma = 2.0"}],
            ["space[1].when", "rates.gamma never is [2.0]; its values are [0, 0.5, 1.0]"],
        ),
        ([GAMMA, WEIGHTING | {"when": "rates.gamma"}], ["space[1].when", "rates.gamma = 0.5"]),
    ],
)
def test_a_space_that_means_nothing_stops_every_job(space: list, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        check_config(config_of(*space))
    assert len(str(error.value).splitlines()) == 1
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("arm", "part"),
    [
        ([{"name": "a/b"}], "arms[0].name: wanted a folder name, got 'a/b'"),
        ([{"name": "a"}, {"name": "a"}], "tune.arms: wanted a name of its own for each, got a, a"),
        ([{"name": "a", "set": ["rates.gamma"]}], "arms[0].set: 'rates.gamma': wanted a line"),
        ([{"name": "a", "set": ["rates.gama = 1"]}], "did you mean rates.gamma?"),
        ([{"name": "a", "set": ["rates.gamma = 'x'"]}], "arms[0].set: rates.gamma: wanted"),
        ([{"name": "a", "set": ["gamma = 1"]}], "arms[0].set: wanted a key that decides"),
    ],
)
def test_an_arm_that_means_nothing_stops_every_job(arm: list, part: str) -> None:
    with pytest.raises(ConfigError) as error:
        check_config(config_of(RATE, arms=arm))
    assert part in str(error.value)


def test_an_empty_space_and_contradictions_are_refused_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="wanted at least one parameter"):
        refuse_impossible(RunConfig(), check_config)
    entropies = {"key": "rates.entropies", "values": ["frozen", "online"]}
    bad = config_of(GAMMA, entropies)
    check_config(bad)  # each by itself is right
    with pytest.raises(ConfigError) as error:
        refuse_impossible(bad, check_config)
    assert "rates.gamma = 0, rates.entropies = 'online'" in str(error.value)
    assert "never used when rates.gamma is 0" in str(error.value)
    assert "under a condition (when)" in str(error.value)
    conditional = entropies | {"when": "rates.gamma = [0.5, 1.0]"}
    refuse_impossible(config_of(GAMMA, conditional), check_config)
    # Ends of ranges are tried as well.
    clamp = {"key": "rates.rate_max", "low": 0.5, "high": 4.0}
    with pytest.raises(ConfigError, match=r"rates.rate_max = 0.5.*rate_min <= 1 <= rate_max"):
        refuse_impossible(config_of(clamp), check_config)


def test_a_grid_is_every_combination_once() -> None:
    config = config_of(GAMMA, WEIGHTING, search="grid")
    check_config(config)
    assert list(combinations(arms(config)[0])) == [
        {"rates.gamma": 0},
        {"rates.gamma": 0.5, "objective.weighting": "paper"},
        {"rates.gamma": 0.5, "objective.weighting": "partial"},
        {"rates.gamma": 1.0, "objective.weighting": "paper"},
        {"rates.gamma": 1.0, "objective.weighting": "partial"},
    ]
    with pytest.raises(ConfigError, match=r"values alone, and train\.learning_rate have a range"):
        check_config(config_of(GAMMA, RATE, search="grid"))


def test_a_space_survives_being_written_and_read(tmp_path: Path) -> None:
    config = config_of(
        GAMMA, WEIGHTING, ALPHA, RATE, arms=[{"name": "a", "set": ["rates.gamma = 0"]}]
    )
    path = tmp_path / "config.toml"
    path.write_text(format_config(config))
    assert load_config(path) == config
    assert arms(load_config(path)) == arms(config)
