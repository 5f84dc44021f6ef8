"""The report's page in a browser, opened from the file system."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from evaluate.statistics import outcomes, scores_by_source
from recipe_core.artifact import ArtifactWriter
from recipe_core.records import TASK_SCHEMA, TRAJECTORY_SCHEMA, write_rows
from recipe_core.seeds import row_random
from report.__main__ import main

pytestmark = pytest.mark.full  # starts a browser

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
HOSTILE = "</script><script>document.title = 'owned'</script><img src=x onerror=\"document.title = 'owned'\">"
PROMPT = (
    "You are an AI assistant tasked with solving command-line tasks in a Linux environment. You will be given a task "
    "description and the output from previously executed commands.\n\nFormat your response as JSON.\n\n"
)
ASKS = {
    "shell": "In /app: count the lines of every *.log file below logs/ and write `name count` lines, the largest count "
    "first, to /app/counts.txt.",
    "humaneval": "Complete the function in /app/solution.py so that the hidden tests pass:\n\n"
    "def has_close_elements(numbers: list[float], threshold: float) -> bool:\n"
    '    """Tell whether two numbers are closer to each other than the threshold."""',
    "pybugs": "The package in /app/more_itertools has a fault. This fails:\n\n>>> list(chunked([1, 2, 3], 2))\n"
    "[[1], [2], [3]]\n\nExpected [[1, 2], [3]]. Find the fault and put it right.",
}
SCREENS = (
    "root@sandbox:/app# ls -la\ntotal 16\ndrwxr-xr-x 4 root root 4096 Jan  1 00:00 .\n"
    "-rw-r--r-- 1 root root  482 Jan  1 00:00 access.log\n-rw-r--r-- 1 root root 1210 Jan  1 00:00 error.log\n"
    "root@sandbox:/app#",
    "root@sandbox:/app# wc -l logs/*.log\n   14 logs/access.log\n    3 logs/error.log\n   17 total\nroot@sandbox:/app#",
    f"root@sandbox:/app# python3 -m pytest -q\nF..\n{' FAILURES ':=^78}\n    def test_chunked():\n"
    ">       assert list(chunked([1, 2, 3], 2)) == [[1, 2], [3]]\nE       AssertionError\n"
    "1 failed, 2 passed in 0.03s\nroot@sandbox:/app#",
)
KEYS = ("ls -la\n", "wc -l logs/*.log\n", "python3 -m pytest -q\n", "sed -i 's/n - 1/n/' more.py\n")
MESSAGES = {"infrastructure": "the sandbox did not start", "parse": "the last answer was not in terminus-2's format"}


def conversation(source: str, turns: int, seed: object, valid: bool) -> list[dict[str, str]]:
    """Return a conversation as terminus-2 has them; a model that has not learnt the format writes something else."""
    rng = row_random(0, "conversation", str(seed))
    screen = "Current Terminal Screen:\nroot@sandbox:/app#" + 38 * "\n"
    first = f"{PROMPT}Task Description:\n{ASKS[source]}\n\n\nCurrent terminal state:\n{screen}"
    messages = [{"role": "user", "content": first}]
    for turn in range(turns):
        last = turn == turns - 1
        answer: dict[str, Any] = {
            "analysis": "The terminal shows what I need: two log files, one of them much longer.",
            "plan": "Mark the task complete." if last else "Count the lines of each, then sort by count.",
            "commands": [{"keystrokes": key, "duration": 0.1} for key in rng.sample(KEYS, 0 if last else 1 + turn % 2)],
            "task_complete": last,
        }
        content = json.dumps(answer) if valid else "the the file file {" + HOSTILE
        messages.append({"role": "assistant", "content": content})
        if not last:
            output = rng.choice(SCREENS) if valid else f"root@sandbox:/app# echo '{HOSTILE}'"
            messages.append({"role": "user", "content": f"New Terminal Output:\n{output}" + 30 * "\n"})
    return messages


def trajectory(index: int, label: str, reward: float | None, error: str | None, attempt: int = 0) -> dict[str, Any]:
    source = tuple(ASKS)[index % 3]
    turns = 2 + index % 4
    return {
        **dict.fromkeys(TRAJECTORY_SCHEMA.names),
        "agent": "terminus-2",
        "task": f"{source}-count-lines-{index:016x}",
        "task_id": f"{index:016x}",
        "source": source,
        "attempt": attempt,
        "reward": reward,
        "error_class": error,
        "error_message": MESSAGES.get(error or ""),
        "model": "reference" if label == "teacher" else label,
        "model_provider": "builtin" if label == "teacher" else "vllm",
        "conversations": conversation(source, turns, (label, index, attempt), valid=label != "base"),
        "turns": turns,
    }


@contextmanager
def artifact(
    folder: Path, stage: str, rows_in: int | None, dropped: dict[str, int], rows_out: int | None = None, **params: str
) -> Iterator[ArtifactWriter]:
    with ArtifactWriter(folder, stage=stage, params=params, seed=0, inputs={}, tier="T0", package=[]) as writer:
        yield writer
        left = rows_out if rows_in is None else rows_in - sum(dropped.values())
        writer.count(rows_in=rows_in, rows_out=left or 0, dropped=dropped)


def write_evaluation(folder: Path, label: str, chance: float) -> None:
    rows = []
    for index in range(24):
        for attempt in range(3):
            solved = (row_random(0, index, attempt).random() + index / 24) / 2 < chance
            broken = (index, attempt) == (5, 1)
            error = "infrastructure" if broken else None if solved else "parse"
            rows.append(trajectory(index, label, None if broken else float(solved), error, attempt))
    scores = [vars(score) for score in scores_by_source(outcomes(rows), attempts=3, seed=0)]
    with artifact(folder, "evaluate", len(rows), {}, label=label) as writer:
        write_rows(writer.path("trials.parquet"), TRAJECTORY_SCHEMA, rows)
        writer.path("scores.json").write_text(json.dumps({"scores": scores}))


def write_recipe(home: Path) -> list[str]:
    """Write the artifacts of a small recipe and return them as the command line wants them, in pipeline order."""
    teacher = [trajectory(i, "teacher", float(i % 7 > 0), None if i % 7 else "timeout") for i in range(30)]
    decay = [(step, math.exp(-step / 60)) for step in range(10, 301, 10)]
    metrics = {
        "train-sft/sft": [
            {"step": s, "epoch": s / 50, "loss": 0.2 + 2.4 * y, "lr": 4e-5 * (1 - s / 310)} for s, y in decay
        ],
        "train-rl/rl": [
            {"step": s, "reward_mean": 0.4 + s / 600, "pass_rate": 0.3 + s / 500, "kl": s / 1000} for s, _ in decay
        ],
    }
    rows = 400
    for name, dropped in (
        ("source-tasks/shell", {"oracle-failed": 8, "noop-solved": 4}),
        ("mix/train", {"duplicate": 12}),
        ("filter-length/train", {"above-maximum": 19}),
        ("rollout/train", {}),
        ("filter-turns/train", {"infrastructure": 2, "not-solved": 21, "too-few-turns": 7}),
    ):
        stage = name.partition("/")[0]
        with artifact(home / name, stage, rows, dropped) as writer:
            if stage in ("rollout", "filter-turns"):
                write_rows(writer.path("trajectories.parquet"), TRAJECTORY_SCHEMA, teacher)
            else:
                write_rows(writer.path("tasks.parquet"), TASK_SCHEMA, [])
        rows -= sum(dropped.values())
    for name, lines in metrics.items():
        with artifact(home / name, name.partition("/")[0], None, {}, rows_out=rows) as writer:
            writer.path("metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for label, chance in (("base", 0.1), ("sft", 0.5), ("rl", 0.56)):
        write_evaluation(home / "evaluate" / label, label, chance)
    names = (
        *("source-tasks/shell", "mix/train", "filter-length/train", "rollout/train", "filter-turns/train"),
        *("train-sft/sft", "train-rl/rl", "evaluate/base", "evaluate/sft", "evaluate/rl"),
    )
    return [word for name in names for word in ("--artifact", f"{name}={home / name}")]


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The page of a recipe with every kind of step."""
    home = tmp_path_factory.mktemp("report")
    main([*write_recipe(home), "--recipe", "<b>demo</b>", "--quiet", "--out", str(home / "report")])
    return home / "report" / "index.html"


@pytest.fixture(scope="module")
def driver(tmp_path_factory) -> Iterator[Any]:
    """A headless browser with an empty profile."""
    if not CHROMIUM or not DRIVER:
        pytest.skip("needs chromium and chromedriver; install the system packages chromium and chromium-driver")
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium; run the set-up of the dev stack")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield browser
    browser.quit()


@pytest.fixture
def opened(driver, page) -> Any:
    """The browser with the page freshly opened at a desktop's size."""
    driver.set_window_size(1280, 900)
    driver.get("about:blank")
    for kind in ("browser", "performance"):
        driver.get_log(kind)
    driver.get(page.as_uri())
    return driver


def titles(driver) -> list[str]:
    """Return the texts of the list's entries."""
    return driver.execute_script(
        "return [...document.querySelectorAll('#list [role=option]')].map(one => one.innerText)"
    )


def selected(driver) -> str:
    """Return the selected entry's id and what the page shows of it."""
    return driver.execute_script(
        "const one = document.querySelector('#list [aria-selected=true]');"
        "return one ? one.id + ' ' + document.querySelector('#detail').innerText : ''"
    )


def choose(driver, name: str, value: str) -> None:
    from selenium.webdriver.support.select import Select

    Select(driver.find_element("id", f"filter-{name}")).select_by_value(value)


def test_nothing_is_logged_and_nothing_is_fetched(opened, page):
    opened.find_element("tag name", "body").send_keys("jjjk")
    assert opened.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in opened.get_log("performance")]
    fetched = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    assert {url for url in fetched if not url.startswith("data:")} == {page.as_uri()}


def test_hostile_text_is_only_text(opened):
    choose(opened, "model", "base")
    assert HOSTILE in opened.find_element("id", "detail").text
    assert opened.title == "<b>demo</b>: report"
    assert opened.find_element("tag name", "h1").text == "<b>demo</b>"
    assert opened.find_elements("css selector", "img, #detail script") == []


def test_every_trajectory_is_reached_by_keyboard(opened):
    shown = titles(opened)
    assert len(shown) >= 20
    body = opened.find_element("tag name", "body")
    seen = [selected(opened)]
    for _ in shown[1:]:
        body.send_keys("j")
        seen.append(selected(opened))
    assert len({text.split()[0] for text in seen}) == len(shown)
    for text, title in zip(seen, shown, strict=True):
        assert title.splitlines()[0] in text
        assert "Turn 1 of" in text
        assert "reward" in text
    body.send_keys("j")
    assert selected(opened) == seen[-1]
    body.send_keys("k")
    assert selected(opened) == seen[-2]


def test_the_list_answers_to_arrow_keys_and_clicks(opened):
    from selenium.webdriver.common.keys import Keys

    box = opened.find_element("id", "list")
    start = selected(opened)
    box.send_keys(Keys.ARROW_DOWN)
    second = selected(opened)
    assert second != start
    assert box.get_attribute("aria-activedescendant") == second.split()[0]
    box.send_keys(Keys.ARROW_UP)
    assert selected(opened) == start
    box.send_keys(Keys.END)
    assert selected(opened) not in (start, second)
    for index, option in enumerate(opened.find_elements("css selector", "#list [role=option]")):
        option.click()
        assert selected(opened).startswith(f"trajectory-{index} ")
    opened.find_element("css selector", ".previous").click()
    assert selected(opened).startswith(f"trajectory-{index - 1} ")


def test_filters_narrow_the_list_together(opened):
    everything = titles(opened)
    choose(opened, "source", "pybugs")
    pybugs = titles(opened)
    assert 0 < len(pybugs) < len(everything)
    assert all("pybugs" in title for title in pybugs)
    choose(opened, "model", "sft")
    choose(opened, "outcome", "solved")
    both = titles(opened)
    assert 0 < len(both) < len(pybugs)
    assert all("sft" in title and "solved" in title for title in both)
    assert opened.find_element("id", "count").text == f"{len(both)} of {len(everything)}"
    choose(opened, "model", "reference teacher")
    choose(opened, "outcome", "infrastructure")
    assert titles(opened) == []
    assert "None fits" in opened.find_element("id", "list").text
    for name in ("source", "model", "outcome"):
        choose(opened, name, "")
    assert titles(opened) == everything


def test_scores_steps_and_curves_are_on_the_page(opened, page):
    summary = json.loads((page.parent / "summary.json").read_text())
    text = opened.find_element("tag name", "main").text
    for stage in summary["stages"]:
        assert stage["stage"] in text
        assert all(f"{count} {reason}" in text for reason, count in stage["dropped"].items())
    rows = opened.find_elements("css selector", "#scores tbody tr")
    assert len(rows) == len(summary["scores"]) == 12
    assert len(opened.find_elements("css selector", ".plot .point")) == 12
    assert len(opened.find_elements("css selector", ".deltas > div")) == 3
    captions = [found.text for found in opened.find_elements("css selector", "#curves figcaption")]
    assert captions == ["loss", "lr", "reward_mean", "pass_rate", "kl"]
    assert all(found.rect["width"] > 200 for found in opened.find_elements("css selector", ".curve"))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_it_without_scrolling_sideways(driver, page, theme):
    size = {"width": 375, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    scheme = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        driver.get(page.as_uri())
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 375
        background = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
        level = int(background.removeprefix("rgb(").split(",")[0])
        assert level < 64 if theme == "dark" else level > 192
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
