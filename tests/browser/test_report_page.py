"""The report in headless Chromium: ``make test-browser``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

from pipeline import report
from pipeline.config import RunConfig, RunSection
from pipeline.report import stage
from scripts.picture_of_report import Settings, chromium, main
from tests.pipeline.report.test_searches import add_search
from tests.pipeline.report.test_stage import add_evaluation, char_reader, fill

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with everything in it, two lengths of the canvas included."""
    folder = tmp_path_factory.mktemp("report") / "run"
    config = RunConfig(run=RunSection(name="small", output_dir=str(folder)))
    fill(config)
    for length, correct in ((64, 5), (256, 12)):
        name = f"weft-{length}"
        answers = [True] * correct + [False] * (16 - correct)
        add_evaluation(config, name, answers, checkpoint="weft", gen_length=length)
    add_search(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "open_reader", char_reader)
        report.run(config)
    return folder / "report" / "index.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium."""
    with chromium("--window-size=1280,900") as driver:
        yield driver


@pytest.fixture
def shown(browser: Any, page: Path) -> Any:
    """The browser with the page, freshly loaded in a wide and light window."""
    browser.set_window_size(1280, 900)
    emulate(browser, "light")
    browser.get_log("browser")
    browser.get(page.as_uri())
    assert browser.execute_script("return document.documentElement.dataset.ready") == "yes"
    return browser


def emulate(browser: Any, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def find(browser: Any, selector: str) -> list[Any]:
    found: list[Any] = browser.find_elements("css selector", selector)
    return found


def test_the_page_loads_without_an_error_and_without_a_request(shown: Any) -> None:
    assert shown.get_log("browser") == []
    assert shown.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert shown.title == "WeFT run small"


def test_text_of_a_model_does_not_run(shown: Any) -> None:
    """Generations hold <script>alert(1)</script>; and a script put in later may not run either."""
    shown.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.intruder = 1';"
        "document.body.appendChild(s);"
    )
    assert shown.execute_script("return window.intruder === undefined")
    (complaint,) = shown.get_log("browser")
    assert "Content Security Policy" in complaint["message"]


def test_every_figure_is_drawn(shown: Any) -> None:
    figures = find(shown, "svg")
    labels = [figure.get_attribute("aria-label") for figure in figures]
    wanted = ("accuracy with", "by length", "by forward passes", "learning", "noise level")
    wanted += ("held-out NELBO of", "parameters of", "importance of", "by training time")
    for text in (*wanted, "histogram of the reference", "histograms of rates", "by length, source"):
        assert any(text in label for label in labels), text
    for figure, label in zip(figures, labels, strict=True):
        box = figure.rect
        assert box["width"] > 100, label
        assert box["height"] > 50, label
        assert len(figure.find_elements("css selector", "path, rect, use")) > 3, label


def column(shown: Any, number: int) -> list[str]:
    cells = find(shown, f"#results ~ .scroll tbody tr td:nth-child({number})")
    return [cell.text for cell in cells][: len(find(shown, "#results + .scroll tbody tr"))]


def test_a_click_sorts_a_table_and_a_second_one_turns_it_round(shown: Any) -> None:
    heads = find(shown, "#results + .scroll th")
    accuracy = next(k for k, head in enumerate(heads) if head.text.startswith("accuracy"))
    heads[accuracy].click()
    values = [float(text.rstrip(" %")) for text in column(shown, accuracy + 1)]
    assert len(values) == 5
    assert values == sorted(values)
    assert heads[accuracy].get_attribute("aria-sort") == "ascending"
    heads[accuracy].send_keys("\n")
    turned = [float(text.rstrip(" %")) for text in column(shown, accuracy + 1)]
    assert turned == values[::-1]
    method = next(k for k, head in enumerate(heads) if head.text.startswith("method"))
    heads[method].click()
    names = column(shown, method + 1)
    assert names == sorted(names)
    assert heads[accuracy].get_attribute("aria-sort") is None


def test_a_generation_is_denoised_step_by_step(shown: Any) -> None:
    slider, canvas = find(shown, "#denoising input")[0], find(shown, "#denoising .tokens")[0]
    whole = canvas.text
    assert "alert(1)" in whole
    last = int(slider.get_attribute("max"))

    def move(step: int) -> None:
        shown.execute_script(
            "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))",
            slider,
            str(step),
        )

    move(0)
    assert set(canvas.text) == {"░"}
    move(3)
    assert canvas.text[:3] == whole[:3]
    assert len(find(shown, "#denoising .hidden")) == last - 3
    assert len(find(shown, "#denoising .now")) == 1
    find(shown, "#denoising button")[0].click()
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(shown, 30).until(lambda _: canvas.text == whole)


def choose(shown: Any, label: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(find(shown, f"#browse select[aria-label={label}]")[0]).select_by_visible_text(value)


def test_wrong_answers_are_browsed_by_evaluation_and_verdict(shown: Any) -> None:
    total = len(find(shown, "#browse details"))
    choose(shown, "evaluation", "weft")
    (first, *others) = find(shown, "#browse details")
    assert len(others) == 1
    assert total > 2
    assert "item-14: answer 1234; strict: wrong, d1: wrong" in first.text
    first.click()
    assert "<script>alert(1)</script>" in first.text
    choose(shown, "verdicts", "the graders disagree")
    assert find(shown, "#browse details") == []
    assert "0 shown" in find(shown, "#browse .controls")[0].text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_a_light_and_on_a_dark_ground(shown: Any, scheme: str) -> None:
    emulate(shown, scheme)
    styles = "const s = getComputedStyle(arguments[0]); return [s.color, s.backgroundColor]"
    ink, ground = shown.execute_script(styles, find(shown, "body")[0])
    assert contrast(ink, ground) >= 7
    faint, _ = shown.execute_script(styles, find(shown, ".note")[0])
    assert contrast(faint, ground) >= 4.5
    assert (luminance(ground) > 0.5) is (scheme == "light")


def luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``; WCAG 2.1."""
    values = [float(part) / 255 for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return sum(w * v for w, v in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first: str, second: str) -> float:
    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def test_on_a_phone_tables_scroll_and_the_page_does_not(shown: Any) -> None:
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 3, "mobile": True}
    shown.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        widths = "return [document.documentElement.scrollWidth, window.innerWidth]"
        page, window = shown.execute_script(widths)
        assert page <= window == 390
        for table in find(shown, ".scroll"):
            assert table.rect["width"] <= 390
    finally:
        shown.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_picture_has_the_parts_that_are_asked_for(page: Path, tmp_path: Path) -> None:
    heights = []
    for sections in (("results",), ("results", "entropies")):
        picture = tmp_path / f"{len(sections)}.png"
        main(Settings(page=page, picture=picture, sections=sections, width=900))
        height, width, _ = plt.imread(picture).shape
        assert width == 900
        heights.append(height)
    assert 300 < heights[0] < heights[1]
