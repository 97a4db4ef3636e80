"""A headless chromium that loads pages without a network and says what went wrong: for tests that look at pages."""

import base64
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from arch.errors import install

WIDTHS = (1400, 420)
HEIGHT = 900
# Only this machine has a name; the pages' network is switched off besides (`alone`).
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost"


def missing() -> str:
    """What a test of pages lacks here; empty if nothing."""
    try:
        import selenium  # noqa: F401
    except ImportError:
        return f"no selenium: {install('browser')}"
    lacking = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"no {' and no '.join(lacking)}: apt-get install chromium chromium-driver" if lacking else ""


OFF = "off: this process has a network of its own, with nothing but itself in it"


@cache
def alone() -> str:
    """Give this process, and what it starts from now on, a network with nothing but itself; says what was done: OFF, or why not.

    A user of a namespace of its own may make one for networks, and set its loopback up; some kernels and sandboxes refuse. As
    root no user namespace is needed, and without one files keep their owners.
    """
    import ctypes
    import fcntl
    import socket
    import struct

    user, net, up, get_flags, set_flags = 0x10000000, 0x40000000, 0x1, 0x8913, 0x8914  # sched.h; linux/if.h, sockios.h
    libc = ctypes.CDLL(None, use_errno=True)
    kinds = (net, user | net) if os.geteuid() == 0 else (user | net,)
    if all(libc.unshare(kind) for kind in kinds):
        return f"names alone are cut off, by a rule of chromium ({os.strerror(ctypes.get_errno())})"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        name = b"lo".ljust(16, b"\0")
        flags = struct.unpack("16sH", fcntl.ioctl(any_socket, get_flags, struct.pack("16sH14x", name, 0))[:18])[1]
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sH14x", name, flags | up))
    return OFF


@contextmanager
def browser() -> Iterator[Any]:
    """A selenium driver of a headless chromium, without a network where that can be had (`alone`)."""
    from selenium import webdriver

    print(f"network: {alone()}")
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
