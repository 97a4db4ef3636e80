"""Pages in a real browser, wide and narrow: nothing is asked of a network, nothing fails, and charts can be looked around in.

`make test-browser` leaves pictures of all pages in `runs/browser` (or $ARCHBENCH_PICTURES), for a person to look at.
"""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pages
import pytest

from analysis import live
from analysis.index import write as write_index
from analysis.report import write_report
from analysis.tensorboard import FIRST, address, tabs
from experiments.record import RunRecord
from sweeps.record import StudyRecord

NEEDED = os.environ.get("ARCHBENCH_NEEDS_BROWSER") == "1"
pytestmark = [pytest.mark.browser, pytest.mark.skipif(bool(pages.missing()) and not NEEDED, reason=pages.missing())]
PICTURES = Path(os.environ.get("ARCHBENCH_PICTURES", "runs/browser"))
ARMS = {"1:1": 0.0, "3:1": 0.0, "短い窓 <b>": 0.02, "local-only": 0.06}


@pytest.fixture(scope="module")
def driver():
    with pages.browser() as made:
        yield made


@pytest.fixture(scope="module")
def folder(plant, tmp_path_factory):
    """A study's folder with its report, below a folder of runs with an index."""
    runs = tmp_path_factory.mktemp("runs")
    made = plant(runs / "local_global" / "demo", ARMS, seeds=3, failed=[("3:1", 0)])
    record = StudyRecord.read(made)
    path = made / record.arms["1:1"].runs["0"]
    run = RunRecord.read(path)
    run.model_copy(update={"sample": "def \x1b[31mred(x):\u202e\n    return <x>"}).write(path)
    write_report(made)
    write_index(runs)
    return made


def test_the_browser_has_no_network():
    """Where the kernel allows a network of its own, nothing but this machine can be reached; else only names are cut off."""
    said = pages.alone()
    print(f"network: {said}")
    interfaces = {path.name for path in Path("/sys/class/net").iterdir()}
    if said == pages.OFF:
        with pytest.raises(OSError, match="unreachable"):
            socket.create_connection(("198.51.100.1", 80), timeout=5)  # of a range that is for documents only
    else:
        assert interfaces and "names" in said


def test_no_page_fails_or_asks_for_anything_else(driver, folder):
    kept = folder.parents[1] / "kept" / "study" / "report.html"
    kept.parent.mkdir(parents=True)
    kept.write_text((folder / "report.html").read_text())
    live.share(kept, kept.parents[1])
    found = {"report": folder / "report.html", "index": folder.parents[1] / "index.html", "kept": kept}
    for name, path in found.items():
        for width in pages.WIDTHS:
            pages.opened(driver, path.as_uri(), width)
            assert driver.execute_script("return document.title")
            pages.pictured(driver, PICTURES / f"{name}-{width}.png")
            assert bool(driver.find_elements("css selector", "figure.drawn")) == (name != "index")
            assert pages.faults(driver) == [], (name, width)
            across = driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
            assert across[0] <= across[1], f"{name} is wider than a window of {width}"


PLOTS = "Bokeh.documents.flatMap((each) => each.roots())"


@pytest.mark.parametrize("width", pages.WIDTHS)
def test_an_arm_is_hidden_a_curve_zoomed_and_a_value_read(driver, folder, width):
    from selenium.webdriver.common.action_chains import ActionChains

    pages.opened(driver, (folder / "report.html").as_uri(), width)
    curves = "[...document.querySelectorAll('section')].find((each) => each.textContent.startsWith('Learning curves'))"
    driver.execute_script(f"{curves}.scrollIntoView()")
    pages.waited(driver, f"return {curves}.querySelector('button.name') && {curves}.querySelectorAll('.place > *').length == 2")
    shown = f"new Set({PLOTS}.flatMap((each) => each.renderers).filter((each) => each.visible).map((each) => each.name))"
    assert "3:1" in driver.execute_script(f"return [...{shown}]")
    button = f"{curves}.querySelector('button[data-name=\"3:1\"]')"
    driver.execute_script(f"{button}.click()")
    assert "3:1" not in driver.execute_script(f"return [...{shown}]")
    assert driver.execute_script(f"return {button}.ariaPressed") == "false"
    driver.execute_script(f"{button}.click()")
    assert "3:1" in driver.execute_script(f"return [...{shown}]")
    # A box is dragged over the middle of the first panel; two taps undo it.
    chart = driver.execute_script(f"return {curves}.querySelector('.place > *')")
    ends = f"const id = {curves}.querySelector('.place').id.slice(3), plot = {PLOTS}.find((each) => each.id == id);"
    ends += "return [plot.x_range.start, plot.x_range.end, plot.y_range.start, plot.y_range.end]"
    before = driver.execute_script(ends)
    box = chart.rect
    mouse = ActionChains(driver, duration=60)
    mouse.move_to_element_with_offset(chart, -int(box["width"] / 6), -int(box["height"] / 6)).click_and_hold()
    mouse.move_by_offset(int(box["width"] / 4), int(box["height"] / 4)).release().perform()
    x0, x1, y0, y1 = driver.execute_script(ends)
    assert before[0] < x0 < x1 < before[1] and before[2] < y0 < y1 < before[3]
    pages.pictured(driver, PICTURES / f"zoomed-{width}.png", whole=False)
    ActionChains(driver).double_click(chart).perform()
    pages.waited(driver, f"const now = (() => {{ {ends} }})(); return now[0] == {before[0]} && now[1] == {before[1]}")
    # The mouse over the points of the first chart with points says whose they are and what they are.
    marks = "[...document.querySelectorAll('section')].find((each) => each.textContent.startsWith('Quality against cache'))"
    driver.execute_script(f"{marks}.scrollIntoView({{block: 'center'}})")
    pages.waited(driver, f"return {marks}.querySelectorAll('.place > *').length")
    at = f"""const id = {marks}.querySelector('.place').id.slice(3), view = [...Bokeh.index]
        .find((each) => each.model.id == id), one = view.model.renderers.find((each) => each.name == '1:1'
        && each.glyph.type == 'Scatter').data_source.data, box = view.el.getBoundingClientRect();
        return [view.frame.x_scale.compute(one.x[0]) + box.left, view.frame.y_scale.compute(one.y[0]) + box.top]"""
    texts = """const found = []; (function walk(root) { for (const each of root.querySelectorAll('*')) {
        if (each.classList.contains('bk-tooltip-content')) found.push(each.textContent);
        if (each.shadowRoot) walk(each.shadowRoot); } })(document); return found.join(' ')"""
    until, read = time.monotonic() + 10, ""
    while not read and time.monotonic() < until:  # charts further up may still grow and move this one away from the mouse
        x, y = pages.waited(driver, at)
        for aside in (-4, 0):
            mouse = ActionChains(driver, duration=50)
            mouse.w3c_actions.pointer_action.move_to_location(int(x) + aside, int(y))
            mouse.perform()
        read = driver.execute_script(texts)
    assert "1:1" in read and re.search(r"\d\d\.\d", read), read
    pages.pictured(driver, PICTURES / f"read-{width}.png", whole=False)
    assert pages.faults(driver) == []


def test_the_page_without_scripts_shows_the_pictures(driver, folder):
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        pages.opened(driver, (folder / "report.html").as_uri(), 1400)
        stills = driver.find_elements("css selector", "figure .still svg")
        assert len(stills) > 2 and all(each.is_displayed() for each in stills)
        assert not driver.find_elements("css selector", ".chart") and pages.faults(driver) == []
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_control_characters_of_a_sample_are_read_on_the_page(driver, folder):
    pages.opened(driver, (folder / "report.html").as_uri(), 1400)
    samples = [each.text for each in driver.find_elements("css selector", "pre")]
    assert "def \\x1b[31mred(x):\\u202e\n    return <x>" in samples


def test_at_a_narrow_width_the_verdict_is_in_sight(driver, folder):
    pages.opened(driver, (folder / "report.html").as_uri(), 420)
    ends = driver.execute_script(
        "return [...document.querySelectorAll('.results tbody .badge')].map((each) => each.getBoundingClientRect().right)"
    )
    assert len(ends) == len(ARMS) and max(ends) <= 420
    heads = driver.execute_script(
        "return [...document.querySelectorAll('.results thead th')].map((it) => [it.textContent, it.getBoundingClientRect().right])"
    )
    right = next(right for name, right in heads if name.startswith("paired difference"))
    assert right <= 420, "the difference stands beside the word"
    names = driver.execute_script(
        "return [...document.querySelectorAll('.results tbody th')].map((each) => each.getBoundingClientRect().width)"
    )
    assert min(names) > 90, "names of arms are no columns of letters"
    letters = driver.execute_script("return getComputedStyle(document.querySelector('.results tbody th')).fontSize")
    assert float(letters.removesuffix("px")) >= 13


def test_names_without_a_break_make_no_page_wider(driver, tmp_path, plant):
    write_report(plant(tmp_path / "long", {"b" * 150: 0.0, "a label of words that goes on and on " * 4: 0.01}, seeds=3))
    for width in pages.WIDTHS:
        pages.opened(driver, (tmp_path / "long" / "report.html").as_uri(), width)
        pages.pictured(driver, PICTURES / f"long-{width}.png")
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width


def test_where_there_is_room_no_table_of_results_scrolls(driver, folder):
    pages.opened(driver, (folder / "report.html").as_uri(), 1400)
    sizes = driver.execute_script(
        "return [...document.querySelectorAll('.scroll:has(.results)')].map((each) => [each.scrollWidth, each.clientWidth])"
    )
    assert sizes and all(content <= room for content, room in sizes), sizes


@pytest.mark.parametrize("width", pages.WIDTHS)
def test_no_name_stands_under_a_mark_or_another_name(driver, tmp_path, plant, width):
    """Points that are close to each other, in charts of any width."""
    near = {"a base": 0.0, "just beside it": 0.001, "a little above": 0.008, "below the others": -0.006, "far": 0.1}
    write_report(plant(tmp_path / "near", near, seeds=3))
    pages.opened(driver, (tmp_path / "near" / "report.html").as_uri(), width)
    marks = "[...document.querySelectorAll('section')].find((each) => each.textContent.startsWith('Quality against cache'))"
    driver.execute_script(f"{marks}.scrollIntoView({{block: 'center'}})")
    boxes = f"""const place = {marks}.querySelector('.place');
        const view = place && window.Bokeh && [...Bokeh.index].find((each) => each.model.id == place.id.slice(3));
        if (!view) return null;
        const {{ x_scale, y_scale }} = view.frame, pen = document.createElement('canvas').getContext('2d');
        pen.font = '12px sans-serif';
        const names = view.model.center.filter((each) => each.type == 'Label').map((each) => {{
            const w = pen.measureText(each.text).width, aside = each.x_offset - (each.text_align == 'right' ? w : 0);
            const x = x_scale.compute(each.x) + aside, y = y_scale.compute(each.y) - each.y_offset;
            return [x, y - 6, x + w, y + 6]; }});
        const points = view.model.renderers.filter((each) => each.glyph.type == 'Scatter').map((each) => {{
            const r = each.glyph.size.value / 2, data = each.data_source.data;
            const x = x_scale.compute(data.x[0]), y = y_scale.compute(data.y[0]);
            return [x - r, y - r, x + r, y + r]; }});
        return names.length && [names, points]"""
    pages.waited(driver, boxes)
    driver.execute_async_script("const done = arguments[0]; setTimeout(done, 400)")
    names, points = driver.execute_script(boxes)
    assert len(names) == len(near)
    for i, (left, top, right, bottom) in enumerate(names):
        for x0, y0, x1, y1 in [*points, *names[:i]]:
            assert min(right, x1) <= max(left, x0) or min(bottom, y1) <= max(top, y0), f"name {i} is covered"


EVERY_TEXT = """(function walk(root) { return ["STYLE", "SCRIPT"].includes(root.nodeName) ? ""
    : [...root.childNodes].map((each) => (each.nodeType == 3 ? each.data.trim() + " " : "")
    + (each.shadowRoot ? walk(each.shadowRoot) : "") + walk(each)).join(""); })(document.body)"""


def free_port():
    with socket.socket() as one:
        one.bind(("localhost", 0))
        return one.getsockname()[1]


def test_tensorboard_opens_at_the_link_that_is_printed(driver, folder):
    port = free_port()
    words = [sys.executable, "-m", "analysis", "tensorboard", str(folder), "--port", str(port)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        link = re.search(r"http://\S+", process.stdout.readline())[0]
        assert link == address(port)
        _answers(port)
        for width in pages.WIDTHS:
            pages.opened(driver, link, width)
            pages.waited(driver, "return [...document.querySelectorAll('card-view .tag')].some((each) => each.title)", 60)
            tags = set(driver.execute_script("return [...document.querySelectorAll('card-view .tag')].map((each) => each.title)"))
            pages.pictured(driver, PICTURES / f"tensorboard-{width}.png", whole=False)
            assert tags and all(re.search(FIRST["tagFilter"], tag) for tag in tags if tag), tags
            assert pages.faults(driver, ("SEVERE",)) == []  # TensorBoard itself warns of parts that are out of date
        pages.opened(driver, f"http://localhost:{port}/#hparams", 1400)
        shown = pages.waited(driver, f"const text = {EVERY_TEXT}; return text.includes('1:1, seed 0') && text", 60)
        assert "seed" in shown and "0.0000" not in shown, "seeds are whole numbers"
        pages.pictured(driver, PICTURES / "hparams-1400.png", whole=False)
        said = "".join(process.stdout.readline() for _ in tabs(port))
        for what, asked in {"margins over seeds": "over-seeds", "the question and its verdicts": "report/verdicts"}.items():
            assert f"{what}: {tabs(port)[what]}\n" in said
            pages.opened(driver, tabs(port)[what], 1400)
            shown = pages.waited(driver, f"const text = {EVERY_TEXT}; return text.includes('{asked}') && text", 60)
            assert "seed-0" not in shown, "the runs of single seeds are not selected"
            pages.pictured(driver, PICTURES / f"{asked.replace('/', '-')}-1400.png", whole=False)
    finally:
        process.terminate()
        process.communicate(timeout=20)


def _answers(port, seconds=60):
    """Wait until TensorBoard has read the runs."""
    import time

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if len(urllib.request.urlopen(f"http://localhost:{port}/data/runs", timeout=5).read()) > 10:
                return
        except OSError:
            pass
        time.sleep(0.3)
    raise AssertionError("TensorBoard does not answer")
