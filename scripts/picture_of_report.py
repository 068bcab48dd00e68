"""A picture of parts of a report: ``python -m scripts.picture_of_report PAGE PNG``.

Needs Debian's chromium and chromedriver, as ``make test-browser`` installs them.
"""

import base64
import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

QUIET = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Of a section its heading and all up to the next one. What goes is found before anything does.
_HIDE = """
const left = document.querySelectorAll(arguments[1]);
let shown = true;
for (const element of document.body.children) {
  if (element.tagName === "H2") shown = arguments[0].includes(element.id);
  if (!shown || [...left].includes(element)) element.style.display = "none";
}
return document.documentElement.scrollHeight;
"""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is taken, and where it goes."""

    page: tyro.conf.Positional[Path]
    """A report's index.html."""
    picture: tyro.conf.Positional[Path]
    """The PNG to write."""
    sections: tuple[str, ...] = ("results", "entropies")
    """Ids of the headings whose parts are shown, below what stands above all of them."""
    without: tuple[str, ...] = (
        *("svg + svg", ".figures", ".figures + svg"),
        *("p:not(.note, .legend)", "p:not(.note, .legend) + .scroll"),
    )
    """CSS selectors of what is left out of them."""
    width: int = 1100
    """In pixels."""


@contextlib.contextmanager
def chromium(*arguments: str) -> Iterator[Any]:
    """Debian's Chromium, driven by its own driver: nothing is downloaded.

    Raises FileNotFoundError without them.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        raise FileNotFoundError(
            "wanted chromium and chromedriver; make test-browser installs them on Debian"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory() as profile:
        for argument in (*QUIET, f"--user-data-dir={profile}", *arguments):
            options.add_argument(argument)
        driver = webdriver.Chrome(options, Service(programs[1], env=dict(os.environ)))
        try:
            yield driver
        finally:
            driver.quit()


def main(settings: Settings) -> None:
    """Write the picture."""
    with chromium(f"--window-size={settings.width},900") as driver:
        driver.get(settings.page.resolve().as_uri())
        left_out = ", ".join(settings.without) or ":not(*)"
        height = driver.execute_script(_HIDE, list(settings.sections), left_out)
        area = {"x": 0, "y": 0, "width": settings.width, "height": height, "scale": 1}
        taken = driver.execute_cdp_cmd(
            "Page.captureScreenshot", {"clip": area, "captureBeyondViewport": True}
        )
    settings.picture.write_bytes(base64.b64decode(taken["data"]))
    print(settings.picture)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
