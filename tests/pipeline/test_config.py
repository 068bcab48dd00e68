"""The configuration: shipped files, what is refused and in which words, and back to TOML."""

import dataclasses
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import (
    RESOURCE,
    DataSection,
    RatesSection,
    RunConfig,
    RunSection,
    SourceSection,
    TrainSection,
    identity,
)
from pipeline.config_checks import check_config
from pipeline.config_file import format_config, load_config, parse_config
from pipeline.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [*sorted(ROOT.glob("configs/*.toml")), *sorted(ROOT.glob("docs/examples/*.toml"))]


def parse(text: str) -> RunConfig:
    return parse_config(tomllib.loads(text), where="run.toml")


def refusal(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return str(caught.value)


def check_refusal(text: str) -> str:
    config = parse(text)
    with pytest.raises(ConfigError) as caught:
        check_config(config)
    return str(caught.value)


def test_there_are_shipped_configurations():
    assert {path.name for path in SHIPPED} >= {"tiny.toml", "tiny_base.toml", "own_data.toml"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_configurations_load_and_can_run(path):
    check_config(load_config(path))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_configurations_survive_the_way_through_toml(path):
    config = load_config(path)
    assert parse(format_config(config)) == config


def test_defaults_can_run_and_an_empty_file_means_them():
    check_config(RunConfig())
    assert parse("") == RunConfig()


# TOML is UTF-8, which has no surrogates; every other character must come back.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@given(
    name=TEXT,
    gamma=st.floats(0, 1e300),
    seed=st.integers(0, 2**63 - 1),
    paths=st.lists(TEXT, max_size=3),
)
def test_format_config_reads_back_equal(name, gamma, seed, paths):
    config = RunConfig(
        run=RunSection(name=name, seed=seed),
        rates=RatesSection(gamma=gamma),
        data=DataSection(sources=tuple(SourceSection(kind="files", path=p) for p in paths)),
    )
    assert parse(format_config(config)) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[trian]", "run.toml: unknown key trian (did you mean train?)"),
        ("[train]\nepoch = 1", "run.toml: unknown key train.epoch (did you mean epochs?)"),
        (
            "[[data.sources]]\nkind = 'task'\ntaks = 'sudoku'",
            "run.toml: unknown key data.sources.0.taks (did you mean task?)",
        ),
        ("[train]\nzzzzzz = 1", "run.toml: unknown key train.zzzzzz"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest_valid_one(text, message):
    assert refusal(text) == message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ('[train]\nepochs = "3"', ["train.epochs", "integer", "'3'"]),
        ("[train]\nepochs = 1.0", ["train.epochs", "integer", "1.0"]),
        ("[train]\nuse_gpu = 1", ["train.use_gpu", "boolean", "got 1"]),
        ("[run]\nname = 3", ["run.name", "string", "got 3"]),
        ("[data]\nsources = 3", ["data.sources", "array", "got 3"]),
        ("train = 3", ["train", "object", "got 3"]),
        ("[objective]\nweighting = 'papr'", ["objective.weighting", "'paper'", "got 'papr'"]),
        ("[data]\nmax_length = 1979-05-27", ["data.max_length", "integer", "'date': '1979-05-27'"]),
    ],
)
def test_wrong_types_are_refused_naming_key_wanted_and_got(text, parts):
    message = refusal(text)
    assert message.startswith("run.toml: ")
    assert all(part in message for part in parts), message


def test_a_missing_key_without_default_is_named():
    assert "data.sources.0.kind is missing" in refusal("[[data.sources]]\ntask = 'sudoku'")


def test_all_mistakes_are_reported_at_once():
    message = refusal("[train]\nepoch = 1\nuse_gpu = 1\n[trian]")
    assert len(message.splitlines()) == 3


def test_an_integer_fills_a_float_key():
    assert parse("[rates]\ngamma = 1").rates.gamma == 1.0


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"[train\n", "not valid TOML"), (b'[run]\nname = "\xff"', "not valid TOML")],
)
def test_files_that_are_no_toml_are_refused_by_name(tmp_path, content, message):
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be read .*see configs"):
        load_config(tmp_path / "none.toml")


OUT_OF_RANGE = [
    ("data.max_length = 0", "at least 1", "0"),
    ("data.num_shards = 0", "at least 1", "0"),
    ("data.tail_max = -1", "not below 0", "-1"),
    ("data.num_cpus = 0", "positive", "0.0"),
    ("data.seed = -1", "an integer in", "-1"),
    ("run.seed = 9223372036854775808", "an integer in", "9223372036854775808"),
    ("evaluate.seed = -1", "an integer in", "-1"),
    ("reference.num_levels = 0", "at least 1", "0"),
    ("reference.batch_tokens = 0", "at least 1", "0"),
    ("reference.head_chunk_mib = 0", "at least 1", "0"),
    ("reference.num_actors = 0", "at least 1", "0"),
    ("reference.tail = -1", "not below 0", "-1"),
    ("reference.num_gpus = -1", "not below 0", "-1.0"),
    ("reference.num_cpus = 0", "positive", "0.0"),
    ("train.epochs = 0", "at least 1", "0"),
    ("train.batch_size = 0", "at least 1", "0"),
    ("train.micro_batch_tokens = 0", "at least 1", "0"),
    ("train.num_workers = 0", "at least 1", "0"),
    ("train.checkpoint_every = 0", "at least 1", "0"),
    ("train.log_every = 0", "at least 1", "0"),
    ("train.head_chunk_mib = 0", "at least 1", "0"),
    ("train.max_steps = -1", "not below 0", "-1"),
    ("train.warmup_steps = -1", "not below 0", "-1"),
    ("train.weight_decay = -0.1", "not below 0", "-0.1"),
    ("train.max_grad_norm = -1", "not below 0", "-1.0"),
    ("train.max_failures = -1", "not below 0", "-1"),
    ("train.learning_rate = 0", "positive", "0.0"),
    ("train.muon_learning_rate = nan", "positive", "nan"),
    ("train.cpus_per_worker = 0", "positive", "0.0"),
    ("train.beta1 = 1.0", "in [0, 1)", "1.0"),
    ("train.beta2 = -0.1", "in [0, 1)", "-0.1"),
    ("rates.gamma = -1", "not below 0", "-1.0"),
    ("rates.gamma = inf", "finite", "inf"),
    ("rates.gamma = nan", "finite", "nan"),
    ("rates.rate_max = inf", "finite", "inf"),
    ("noise.eps = 0", "in (0, 1)", "0.0"),
    ("noise.eps = 1", "in (0, 1)", "1.0"),
    ("evaluate.gen_lengths = [0]", "at least 1", "0"),
    ("evaluate.block_length = -1", "not below 0", "-1"),
    ("evaluate.steps = -1", "not below 0", "-1"),
    ("evaluate.grader_timeout_s = 0", "positive", "0.0"),
    ("evaluate.batch_size = 0", "at least 1", "0"),
    ("evaluate.num_actors = 0", "at least 1", "0"),
    ("evaluate.temperature = -0.1", "from 0 up", "-0.1"),
    ("evaluate.cfg_scale = -1", "from 0 up", "-1.0"),
    ("evaluate.num_gpus = -1", "not below 0", "-1.0"),
    ("evaluate.num_cpus = 0", "positive", "0.0"),
    ("report.num_examples = -1", "not below 0", "-1"),
]


@pytest.mark.parametrize(("line", "wanted", "got"), OUT_OF_RANGE)
def test_values_out_of_range_are_refused_naming_key_wanted_and_got(line, wanted, got):
    (message,) = check_refusal(line).splitlines()
    assert message.startswith(f"{line.split()[0]}: wanted ")
    assert wanted in message
    assert message.endswith(f", got {got}")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("rates.rate_min = 2", ["rates.rate_min", "rate_min <= 1 <= rate_max", "(2.0, 10.0)"]),
        ("rates.rate_max = 0.5", ["rates.rate_max", "rate_min <= 1 <= rate_max", "(0.1, 0.5)"]),
        (
            "rates = {entropies = 'online', gamma = 0}",
            ["rates.entropies", "rates.gamma is 0", "set rates.entropies to frozen"],
        ),
        (
            "rates = {entropies = 'online', beta_ref = 'dataset'}",
            ["rates.beta_ref", "dataset", "sequence or batch"],
        ),
        (
            "rates.tail = 'entropy'\nreference.tail = 0",
            ["reference.tail", "at least 1 with rates.tail = entropy", "got 0"],
        ),
        (
            "objective = {weighting = 'partial', alpha = 1.5}",
            ["objective.alpha", "[0, 1]", "got 1.5"],
        ),
        ("objective.cart_p = 1.0", ["objective.cart_p", "a number in (0, 1)", "got 1.0"]),
        (
            "objective = {name = 'dft', weighting = 'elbo'}",
            ["objective.weighting", "objective.name is dft", "leave it at paper"],
        ),
        (
            "objective.name = 'lift'\nrates.entropies = 'online'",
            ["rates.entropies", "never used by the objective lift", "frozen"],
        ),
        (
            "rates.entropies = 'online'\nreference.estimator = 'expected'",
            ["reference.estimator", "expected does not", "full_mask or nll"],
        ),
        ("objective.alpha = 2.0", ["objective.alpha", "[0, 1]", "got 2.0"]),
        (
            "rates = {tail = 'entropy', beta_ref = 'dataset'}",
            ["rates.beta_ref", "sequence or batch"],
        ),
        (
            "train = {max_steps = 20, warmup_steps = 20}",
            ["train.warmup_steps", "below max_steps 20", "got 20"],
        ),
        (
            "train = {batch_size = 2, num_workers = 4}",
            ["train.batch_size", "an example for each of train.num_workers 4", "got 2"],
        ),
        ("model.trust_remote_code = true", ["model.trust_remote_code", "leave it false"]),
        ("train.name = ''", ["train.name", "a folder name", "got ''"]),
        ("train.name = 'a/b'", ["train.name", "a folder name", "got 'a/b'"]),
        ("train.name = '..'", ["train.name", "a folder name", "got '..'"]),
        ("evaluate.name = '.hidden'", ["evaluate.name", "a folder name", "got '.hidden'"]),
        ("evaluate.name = 'a/b'", ["evaluate.name", "a folder name", "got 'a/b'"]),
        ("data.sources = []", ["data.sources", "at least one source", "got []"]),
        (
            "data.sources = [{kind = 'task', task = 'sudokus', count = 1}]",
            ["data.sources[0].task", "countdown, sudoku (did you mean sudoku?)", "got 'sudokus'"],
        ),
        (
            "data.sources = [{kind = 'task', task = 'sudoku'}]",
            ["data.sources[0].count", "at least 1", "got 0"],
        ),
        (
            "data.sources = [{kind = 'pretraining', count = 1}, {kind = 'pretraining'}]",
            ["data.sources[1].count", "at least 1", "got 0"],
        ),
        ("data.sources = [{kind = 'files'}]", ["data.sources[0].path", "a path", "got ''"]),
        (
            "data.sources = [{kind = 'files', path = 'a.jsonl', count = 3}]",
            ["data.sources[0].count", "none for kind files", "got 3"],
        ),
        (
            "data.sources = [{kind = 'pretraining', count = 3, task = 'sudoku'}]",
            ["data.sources[0].task", "none for kind pretraining", "got 'sudoku'"],
        ),
        (
            "data.sources = [{kind = 'files', path = 'x', format = 's1k', prompt_column = 'q'}]",
            ["data.sources[0].prompt_column", "none for format s1k", "got 'q'"],
        ),
        (
            "data.sources = [{kind = 'task', task = 'sudoku', count = 3, prompt_column = 'q'}]",
            ["data.sources[0].prompt_column", "none for kind task", "got 'q'"],
        ),
        (
            "evaluate.tasks = ['sudoku', 'count']",
            ["evaluate.tasks", "did you mean countdown?", "got 'count'"],
        ),
        ("evaluate.tasks = []", ["evaluate.tasks", "at least one task", "got []"]),
        (
            "evaluate = {protocol = 'd1', tasks = ['sudoku']}",
            ["evaluate.data_dir", "published items of sudoku", "the protocol d1", "got nothing"],
        ),
        (
            "evaluate.block_length = 48",
            [
                "canvas of 128",
                "gen_length a multiple",
                "got 128 and 48",
                "nearest gen_length is 144",
            ],
        ),
        ("evaluate.steps = 6", ["steps a multiple of the 4 blocks", "got 6", "nearest is 8"]),
        ("evaluate.steps = 256", ["at most 128", "got 256", "the nearest is 128"]),
        ("evaluate.tasks = ['mbpp']", ["evaluate.tasks: mbpp", "--allow-code-execution"]),
        ("evaluate.tasks = ['sudoku', 'sudoku']", ["evaluate.tasks", "each once"]),
        ("evaluate.gen_lengths = [128, 128]", ["evaluate.gen_lengths", "each once"]),
        ("evaluate.threshold = 1.5", ["threshold: wanted a number from 0 to 1, got 1.5"]),
        (
            "evaluate = {cache = 'dual', cfg_scale = 1.0}",
            ["cache: guidance needs whole passes"],
        ),
        (
            "evaluate = {protocol = 'd1', data_dir = 'b', gen_lengths = [256], block_length = 64}",
            ["evaluate.block_length", "d1 has 32 for a canvas of 256 tokens, got 64", "own"],
        ),
        (
            "evaluate = {protocol = 'd1', data_dir = 'b', gen_lengths = [256], temperature = 0.5}",
            ["evaluate.temperature: the protocol d1 has 0.0", "got 0.5"],
        ),
        (
            "evaluate = {protocol = 'llada', data_dir = 'b', prompt_style = 'compact'}",
            ["evaluate.prompt_style: the protocol llada has llada", "got compact"],
        ),
        (
            "train.num_workers = 2\ntrain.min_workers = 3",
            ["train.min_workers: wanted at most train.num_workers 2, got 3"],
        ),
        (
            "train.num_workers = 2\ntrain.min_workers = 1\nrates.beta_ref = 'batch'",
            ["train.min_workers: rates.beta_ref batch", "wanted 0, got 1"],
        ),
    ],
)
def test_combinations_that_cannot_run_are_refused(text, parts):
    (message,) = check_refusal(text).splitlines()
    assert all(part in message for part in parts), message


@pytest.mark.parametrize(
    "text",
    [
        "evaluate = {benchmark_items = 0, data_dir = 'benchmarks'}",
        "rates.tail = 'entropy'\nreference.tail = 0\ndata.eos_policy = 'one'",
        "rates = {tail = 'entropy', entropies = 'online'}\nreference.tail = 0",
        "rates = {entropies = 'online', beta_ref = 'batch'}",
        "rates.gamma = 0",
        "objective = {weighting = 'partial', alpha = 1.0}",
        "rates = {tail = 'entropy', beta_ref = 'dataset'}\ndata.eos_policy = 'one'",
        "train = {max_steps = 21, warmup_steps = 20}",
        "evaluate = {protocol = 'd1', data_dir = 'b', threshold = 0.9, cache = 'dual'}",
        "evaluate = {protocol = 'd1', tasks = ['gsm8k'], gen_lengths = [256], steps = 128}",
        "evaluate = {protocol = 'llada', data_dir = 'b', gen_lengths = [64, 128]}",
        "evaluate = {tasks = ['humaneval'], allow_code_execution = true}",
    ],
)
def test_combinations_at_the_edge_of_those_refused_can_run(text):
    check_config(parse(text))


def test_all_impossible_values_are_reported_at_once():
    assert len(check_refusal("train = {epochs = 0, batch_size = 0}").splitlines()) == 2


def test_resources_stay_out_of_the_identity():
    values = identity(TrainSection())
    assert "epochs" in values
    resources = [f.name for f in dataclasses.fields(TrainSection) if f.metadata == RESOURCE]
    assert "num_workers" in resources
    assert not set(resources) & set(values)
