"""A headless chromium that loads pages without a network and says what went wrong: for tests that look at pages."""

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WIDTHS = (1400, 420)
HEIGHT = 900
# Only this machine has a name.
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost"


def missing() -> str:
    """What a test of pages lacks here; empty if nothing."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "no selenium: pip install 'archbench[browser]'"
    lacking = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"no {' and no '.join(lacking)}: apt-get install chromium chromium-driver" if lacking else ""


@contextmanager
def browser() -> Iterator[Any]:
    """A selenium driver of a headless chromium."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for option in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", OFFLINE):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(60)
    try:
        yield driver
    finally:
        driver.quit()


def sized(driver: Any, width: int, height: int = HEIGHT) -> None:
    """Give the window's content this size in pixels of a page."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def opened(driver: Any, address: str, width: int) -> None:
    """Load a page at a width, and forget what was logged before."""
    faults(driver)
    sized(driver, width)
    driver.get(address)


def waited(driver: Any, script: str, seconds: float = 30) -> Any:
    """What a script returns as soon as that is true. Raises TimeoutException."""
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(driver, seconds, poll_frequency=0.1).until(lambda each: each.execute_script(script))


def faults(driver: Any, levels: tuple[str, ...] = ("SEVERE", "WARNING")) -> list[str]:
    """What the console says at these levels, failed requests, and requests to anywhere but this machine, since the last call."""
    found = [f"console: {each['message']}" for each in driver.get_log("browser") if each["level"] in levels]
    addresses: dict[str, str] = {}
    for each in driver.get_log("performance"):
        message = json.loads(each["message"])["message"]
        kind, params = message["method"], message["params"]
        if kind == "Network.requestWillBeSent":
            address = addresses[params["requestId"]] = params["request"]["url"]
            if not address.startswith(("file:", "data:", "blob:", "http://localhost:", "chrome")):
                found.append(f"asked for {address}")
        elif kind == "Network.loadingFailed" and not params.get("canceled"):
            found.append(f"failed: {addresses.get(params['requestId'])}: {params['errorText']}")
        elif kind == "Network.responseReceived" and params["response"]["status"] >= 400:
            found.append(f"{params['response']['status']}: {params['response']['url']}")
    return found


def pictured(driver: Any, path: Path, whole: bool = True) -> None:
    """Save a picture of the page, from its top to its end if `whole`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = driver.execute_script("return [innerWidth, document.documentElement.scrollHeight]")
    if whole:
        sized(driver, size[0], min(size[1], 16_000))
        waited(driver, "return !document.querySelector('figure:has(script.live):not(.drawn)')")
        driver.execute_async_script("const done = arguments[0]; setTimeout(done, 1200)")
    taken = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    path.write_bytes(base64.b64decode(taken["data"]))
    if whole:
        sized(driver, size[0])
