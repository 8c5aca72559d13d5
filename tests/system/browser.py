"""A real browser, driven over the DevTools protocol as a person would use it.

Chromium runs without a window and with a profile of its own; what a page logs and asks for is kept,
so that a test can say that nothing went wrong and nobody else was asked.
"""

import asyncio
import base64
import contextlib
import itertools
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO

import aiohttp

LIMIT_S = 30.0
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--force-color-profile=srgb",
    "--remote-debugging-port=0",
)
_KEYS = {
    "Enter": ("Enter", 13, "\r"),
    "Escape": ("Escape", 27, ""),
    "Tab": ("Tab", 9, ""),
    "ArrowUp": ("ArrowUp", 38, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
    "ArrowLeft": ("ArrowLeft", 37, ""),
    "ArrowRight": ("ArrowRight", 39, ""),
    " ": ("Space", 32, " "),
}


class Page:
    """One page; everything that it logs as an error and every address that it asks is kept."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.errors: list[str] = []
        self.requests: list[str] = []

    async def read(self) -> None:
        """Take in what the browser says, until it says no more."""
        async for message in self._socket:
            told = json.loads(message.data)
            if "id" in told:
                answer = self._answers.pop(told["id"], None)
                if answer is not None and not answer.done():
                    answer.set_result(told)
            else:
                self._note(told["method"], told["params"])
        for answer in self._answers.values():
            answer.cancel()

    def _note(self, method: str, told: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning"):
            words = (str(a.get("value", a.get("description", ""))) for a in told["args"])
            self.errors.append(" ".join(words))
        elif method == "Log.entryAdded" and told["entry"]["level"] in ("error", "warning"):
            self.errors.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        told = await asyncio.wait_for(answer, LIMIT_S)
        assert "error" not in told, f"{method}: {told['error']}"
        result: dict[str, Any] = told["result"]
        return result

    async def go(self, address: str) -> None:
        await self.call("Page.navigate", url=address)
        await self.until("document.readyState === 'complete'", f"{address} is loaded")

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression, or of the promise that it is."""
        told = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in told, f"{expression}: {told['exceptionDetails']}"
        return told["result"].get("value")

    async def until(self, expression: str, what: str, limit_s: float = LIMIT_S) -> None:
        """Wait until an expression is true; fails with `what` and the page's text when it is not.

        A navigation in between takes the page's world with it, so the question is asked again.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + limit_s
        while loop.time() < end:
            with contextlib.suppress(AssertionError):
                # As a boolean: an element is no value that could be handed over.
                if await self.evaluate(f"Boolean({expression})"):
                    return
            await asyncio.sleep(0.05)
        text = await self.evaluate("document.body.innerText")
        raise AssertionError(f"waited in vain: {what}\n{text[:3000]}\n{self.errors}")

    async def text(self, selector: str = "body") -> str:
        found = await self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")
        return str(found)

    async def place(self, selector: str) -> tuple[float, float, float, float]:
        """Left, top, width and height of an element, after it was brought into view."""
        bounds = f"""(() => {{
            const e = document.querySelector({json.dumps(selector)});
            if (!e) return null;
            e.scrollIntoView({{ block: "center", behavior: "instant" }});
            const r = e.getBoundingClientRect();
            return r.width ? [r.left, r.top, r.width, r.height] : null;
        }})()"""
        await self.until(bounds, f"{selector} can be seen")
        found = await self.evaluate(bounds)
        left, top, width, height = found
        return left, top, width, height

    async def click(self, selector: str) -> None:
        """With the mouse, in the middle of an element."""
        left, top, width, height = await self.place(selector)
        x, y = left + width / 2, top + height / 2
        await self._mouse("mouseMoved", x, y, "none")
        await self._mouse("mousePressed", x, y)
        await self._mouse("mouseReleased", x, y)

    async def drag(self, selector: str, begin: float, end: float) -> None:
        """Across an element from one part of its width to another."""
        left, top, width, height = await self.place(selector)
        y = top + height / 2
        await self._mouse("mouseMoved", left + width * begin, y, "none")
        await self._mouse("mousePressed", left + width * begin, y)
        for part in (0.25, 0.5, 0.75, 1.0):
            await self._mouse("mouseMoved", left + width * (begin + (end - begin) * part), y)
        await self._mouse("mouseReleased", left + width * end, y)

    async def _mouse(self, kind: str, x: float, y: float, button: str = "left") -> None:
        pressed = 0 if button == "none" or kind == "mouseReleased" else 1
        await self.call(
            "Input.dispatchMouseEvent",
            type=kind,
            x=x,
            y=y,
            button=button,
            buttons=pressed,
            clickCount=0 if kind == "mouseMoved" else 1,
        )

    async def key(self, key: str) -> None:
        """Press and let go: a character, or one of the names of keys."""
        code, number, text = _KEYS.get(key, ("", ord(key.upper()) if len(key) == 1 else 0, key))
        told = {"key": key, "code": code, "windowsVirtualKeyCode": number}
        typed = {"text": text} if text else {}
        await self.call("Input.dispatchKeyEvent", type="keyDown", **told, **typed)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **told)

    async def type(self, text: str) -> None:
        for character in text:
            await self.key(character)

    async def show_as(self, width: int, height: int, *, dark: bool = False) -> None:
        """At a size in CSS pixels, in a colour scheme; below 600 pixels as a phone."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def screenshot(self, path: Path) -> None:
        told = await self.call("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.write_bytes, base64.b64decode(told["data"]))


@contextlib.asynccontextmanager
async def browser(profile: Path) -> AsyncIterator[Page]:
    """A browser with one empty page, at 1280 x 800; it ends with the context."""
    program = shutil.which("chromium")
    assert program, "chromium is not installed: make test-system installs it"
    with _log(profile) as log:
        process = await asyncio.create_subprocess_exec(
            *(program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"),
            stdout=log,
            stderr=log,
        )
    try:
        port = await _port(profile, process)
        async with aiohttp.ClientSession() as session:
            async with session.put(f"http://127.0.0.1:{port}/json/new?about:blank") as answer:
                target = await answer.json()
            # A screenshot is one message.
            address = target["webSocketDebuggerUrl"]
            async with session.ws_connect(address, max_msg_size=0) as socket:
                page = Page(socket)
                reading = asyncio.create_task(page.read())
                try:
                    for domain in ("Page", "Runtime", "Network", "Log"):
                        await page.call(f"{domain}.enable")
                    await page.show_as(1280, 800)
                    yield page
                finally:
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await asyncio.wait_for(process.wait(), LIMIT_S)


def _log(profile: Path) -> BinaryIO:
    profile.mkdir(parents=True, exist_ok=True)
    return (profile / "chromium.log").open("wb")


async def _port(profile: Path, process: asyncio.subprocess.Process) -> int:
    """Where it listens: it writes that into its profile when it does."""
    loop = asyncio.get_running_loop()
    end = loop.time() + LIMIT_S
    while loop.time() < end and process.returncode is None:
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
            return int((profile / "DevToolsActivePort").read_text().splitlines()[0])
        await asyncio.sleep(0.05)
    raise AssertionError(f"chromium does not start: {(profile / 'chromium.log').read_text()}")
