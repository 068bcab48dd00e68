"""The documentation against the repository: links, commands, tests it names, generated pages."""

import re
import runpy
import shlex
import tomllib
from pathlib import Path

import pytest

from pipeline.cli import parse_arguments
from pipeline.config_checks import check_config
from pipeline.config_file import parse_config

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "weft" / "assets" / "tiny" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]


def page_name(page):
    return str(page.relative_to(ROOT))


def code_blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def commands(page):
    """Command lines in the page's bash blocks, continued lines joined, without comments."""
    blocks = code_blocks(page.read_text(encoding="utf-8"), "bash")
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines]


def job_commands():
    """(page, job, its arguments); a shell variable stands for some number, so it is read as 1."""
    for page in PAGES:
        for words in commands(page):
            words = [re.sub(r"\$\{?\w+\}?", "1", word) for word in words]
            for place, word in enumerate(words):
                if re.fullmatch(r"jobs/\w+\.py", word) and words[place - 1] == "python":
                    yield pytest.param(word, words[place + 1 :], id=f"{page.name}: {word}")


def make_targets():
    return {words[1] for page in PAGES for words in commands(page) if words[:1] == ["make"]}


def relative_links():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if not re.match(r"[a-z]+:|#", target):
                path = target.split("#")[0]
                yield pytest.param(page.parent / path, id=f"{page.name}: {path}")


def anchors(page):
    """Anchors of the page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_configuration_page_is_up_to_date():
    render = runpy.run_path(str(ROOT / "scripts" / "make_config_docs.py"))["render"]
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == render(), "run: python scripts/make_config_docs.py"


@pytest.mark.parametrize("target", relative_links())
def test_relative_links_lead_somewhere(target):
    assert target.exists(), f"{target} does not exist"


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_to_headings_lead_to_a_heading(page):
    for path, anchor in re.findall(r"\]\(([^)\s#:]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        target = page.parent / path if path else page
        assert anchor in anchors(target), f"{page_name(target)} has no heading #{anchor}"


@pytest.mark.parametrize(("job", "arguments"), job_commands())
def test_job_commands_are_understood(job, arguments, monkeypatch):
    """The job and its configuration file exist, and every flag and value is accepted."""
    monkeypatch.chdir(ROOT)
    assert (ROOT / job).is_file()
    parse_arguments(Path(job).stem, arguments)


def test_the_readme_runs_every_stage():
    started = [words for words in commands(ROOT / "README.md") if words[:1] == ["python"]]
    jobs = {words[1] for words in started if words[1] != "-m"}
    there = {f"jobs/{path.name}" for path in (ROOT / "jobs").glob("[a-z]*.py")}
    assert jobs == there


@pytest.mark.parametrize("target", sorted(make_targets()))
def test_make_targets_exist(target):
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", text, flags=re.MULTILINE), f"Makefile has no target {target}"


def test_the_worked_example_is_the_file_that_is_run():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    folder = ROOT / "docs" / "examples"
    (config,) = code_blocks(readme, "toml")
    (row,) = code_blocks(readme, "json")
    assert config == (folder / "own_data.toml").read_text(encoding="utf-8")
    assert row == (folder / "own_data.jsonl").read_text(encoding="utf-8").splitlines(True)[0]
    check_config(parse_config(tomllib.loads(config), where="README.md"))


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_tests_that_a_page_names_exist(page):
    for path, name in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text(encoding="utf-8")):
        source = (ROOT / path).read_text(encoding="utf-8")
        assert f"\ndef {name}(" in source, f"{path} has no test {name}"


def test_pages_name_no_folder_of_somebodys_machine():
    for page in PAGES:
        found = re.search(r"(?<![\w.])/(home|root|work|tmp|Users)\b", page.read_text("utf-8"))
        assert found is None, f"{page_name(page)}: {found}"
