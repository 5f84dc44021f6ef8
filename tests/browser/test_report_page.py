"""The report's page in headless Chromium, opened from the file system with the network off."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (it is part of the dev stack)")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium here: install the packages chromium and chromium-driver"
)
WIDE, NARROW = (1280, 900), (390, 844)


@pytest.fixture
def page(report_flags, tool, tmp_path) -> str:
    """The URL of a report of the finished recipe."""
    done = tool("report", *report_flags, "--out", tmp_path / "report", "--quiet")
    assert done.returncode == 0, done.stderr
    return (tmp_path / "report" / "index.html").as_uri()


def browse(scheme: str, size: tuple[int, int]) -> Iterator:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(flag)
    options.add_argument(f"--window-size={size[0]},{size[1]}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        # The narrowest window is wider than a phone; the emulated screen is not.
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme_feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme_feature)
        driver.execute_cdp_cmd("Network.enable", {})
        offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def chromium() -> Iterator:
    """A wide light window."""
    yield from browse("light", WIDE)


@pytest.fixture(params=[("light", WIDE), ("dark", WIDE), ("light", NARROW), ("dark", NARROW)], ids=str)
def every_look(request) -> Iterator:
    """Light and dark, a wide window and a phone."""
    yield from browse(*request.param)


def texts(driver, selector: str) -> list[str]:
    return [element.get_attribute("textContent").strip() for element in driver.find_elements("css selector", selector)]


def visible_articles(driver) -> list[str]:
    articles = driver.find_elements("css selector", ".trajectory")
    return [article.get_attribute("id") for article in articles if article.is_displayed()]


def visible_links(driver) -> list:
    return [link for link in driver.find_elements("css selector", "#list a") if link.is_displayed()]


def choose(driver, name: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(driver.find_element("name", name)).select_by_visible_text(value)


def test_it_looks_right_everywhere(every_look, page):
    every_look.get(page)
    assert every_look.get_log("browser") == []
    width, inner = every_look.execute_script("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= inner, "the page scrolls sideways"
    background, ink = every_look.execute_script(
        "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
    )
    assert background != ink
    too_small = every_look.execute_script(
        "return [...document.querySelectorAll('body *')].filter(e => e.checkVisibility() && "
        "parseFloat(getComputedStyle(e).fontSize) < 12).length"
    )
    assert too_small == 0


def test_dark_is_darker_than_light(page):
    shades = {}
    for scheme in ("light", "dark"):
        for driver in browse(scheme, WIDE):
            driver.get(page)
            colour = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
            shades[scheme] = sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
    assert shades["dark"] < 200
    assert shades["light"] > 600


def test_hostile_trajectories_are_text(chromium, page):
    chromium.get(page)
    assert chromium.title == "From source tasks to scores"
    assert chromium.execute_script("return document.querySelectorAll('img').length") == 0
    assert chromium.execute_script("return document.querySelectorAll('script').length") == 1
    assert "<img src=x" in " ".join(texts(chromium, ".trajectory .screen"))


def test_nothing_is_asked_of_the_network(chromium, page):
    chromium.get(page)
    assert chromium.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_at_least_twenty_trajectories_can_be_reached_one_at_a_time(chromium, page):
    chromium.get(page)
    links = visible_links(chromium)
    assert len(links) >= 20
    seen = set()
    for link in links:
        link.click()
        (article,) = visible_articles(chromium)
        assert link.get_attribute("href").endswith(f"#{article}")
        assert texts(chromium, f"#{article} .turns > li") or "infrastructure" in texts(chromium, f"#{article} dl")[0]
        seen.add(article)
    assert len(seen) == len(links)


def test_next_and_previous_walk_the_list(chromium, page):
    chromium.get(page)
    (first,) = visible_articles(chromium)
    assert not chromium.find_element("id", "previous").is_enabled()
    chromium.find_element("id", "next").click()
    (second,) = visible_articles(chromium)
    assert second != first
    assert chromium.current_url.endswith(f"#{second}")
    chromium.find_element("id", "previous").click()
    assert visible_articles(chromium) == [first]


def test_filters_narrow_the_list_and_combine(chromium, page):
    chromium.get(page)
    everything = len(visible_links(chromium))
    choose(chromium, "model", "sft")
    of_sft = visible_links(chromium)
    assert 0 < len(of_sft) < everything
    choose(chromium, "outcome", "solved")
    choose(chromium, "source", "shell")
    kept = visible_links(chromium)
    assert 0 < len(kept) < len(of_sft)
    assert all("sft shell" in link.text and "solved" in link.text for link in kept)
    assert chromium.find_element("id", "shown").text == f"1 of {len(kept)}"
    choose(chromium, "model", "base")
    assert visible_links(chromium) == []
    assert visible_articles(chromium) == []
    assert chromium.find_element("id", "none").is_displayed()


def test_the_keyboard_is_enough(chromium, page):
    from selenium.webdriver.common.keys import Keys

    chromium.get(page)
    chromium.execute_script("document.querySelector('#list a').focus()")
    for _ in range(3):
        chromium.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert visible_articles(chromium) == ["trajectory-4"]
    chromium.switch_to.active_element.send_keys(Keys.ENTER)
    assert chromium.switch_to.active_element.get_attribute("id") == "trajectory-4"
    chromium.switch_to.active_element.send_keys(Keys.TAB)
    assert chromium.switch_to.active_element.tag_name == "summary"


def test_a_link_to_a_trajectory_opens_it(chromium, page):
    chromium.get(f"{page}#trajectory-17")
    assert visible_articles(chromium) == ["trajectory-17"]


def test_without_scripts_everything_is_still_there(chromium, page):
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    chromium.get(page)
    articles = chromium.find_elements("css selector", ".trajectory")
    assert len(articles) >= 20
    assert all(article.is_displayed() for article in articles)


def test_curves_have_axes_and_labels(chromium, page):
    chromium.get(page)
    labels = texts(chromium, "svg.curve .label")
    assert labels.count("optimizer step") == len(chromium.find_elements("css selector", "svg.curve")) >= 2
    assert {"training loss", "mean reward"} <= set(labels)
    assert all(len(texts(svg, "text")) > 6 for svg in chromium.find_elements("css selector", "svg.curve"))
