"""Faults that are pressed on the page of a bench, and what they do to a real agent."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests import processes
from tests.system.pageworld import PLOT, inked, opened, run

pytestmark = pytest.mark.system


@contextlib.asynccontextmanager
async def bench(folder: Path) -> AsyncIterator[str]:
    """`edge-agent bench`; gives the origin of its page."""
    process = await processes.start(
        *("bench", "--listen", "127.0.0.1:0", "--folder", str(folder / "bench")),
        log=folder / "bench.log",
    )
    assert process.stdout is not None
    drained: asyncio.Task[bytes] | None = None
    try:
        async with asyncio.timeout(processes.LIMIT_S):
            while True:
                line = (await process.stdout.readline()).decode()
                assert line, (folder / "bench.log").read_text()
                if line.startswith("page"):
                    break
        drained = asyncio.create_task(process.stdout.read())
        yield line.split()[1].rstrip("/")
    finally:
        await processes.stop(process)
        if drained is not None:
            await drained


def strip(words: str) -> str:
    return f"document.querySelector('.strip').innerText.includes({words!r})"


def fault(name: str) -> str:
    return f'[data-key="{name}"]'


def test_faults_are_pressed_and_their_effect_is_seen(tmp_path: Path) -> None:
    async def look() -> None:
        async with (
            bench(tmp_path) as origin,
            opened(tmp_path / "profile", origin) as page,
        ):
            await page.until("!document.querySelector('[data-view=bench]').hidden", "a bench")
            await page.click("[data-view=bench]")
            await page.until(strip("agent running"), "the agent runs")
            await page.until(strip("bus powertrain: reading"), "it reads")
            await page.until(strip("ledger closes"), "its ledger closes")

            await page.click(f"{fault('link-down')} button")
            pressed = f"document.querySelector('{fault('link-down')} button').ariaPressed"
            await page.until(f"{pressed} === 'true'", "it is pressed")
            await page.until(strip("uplink cloud: waiting"), "the uplink waits")
            await page.until(
                "/\\d+ batch(es)? waiting/.test(document.querySelector('.strip').innerText)",
                "batches wait",
            )
            await page.click(f"{fault('link-down')} button")
            await page.until(strip("nothing waits"), "all of it was sent")

    run(look())


def test_a_power_cut_is_pressed_by_keyboard_and_the_agent_comes_back(tmp_path: Path) -> None:
    async def look() -> None:
        async with (
            bench(tmp_path) as origin,
            opened(tmp_path / "profile", origin) as page,
        ):
            # A run that is cut before anything of it was durable leaves no trace.
            await page.until("/bench-ev/.test(document.body.innerText)", "something has arrived")
            await page.go(f"{origin}/#/bench")
            await page.until(strip("agent running"), "the agent runs")
            await page.until(strip("ledger closes"), "its ledger closes")
            button = f"document.querySelector('{fault('power-cut')} button')"
            await page.evaluate(f"{button}.focus()")
            await page.key(" ")
            await page.until(f"!{strip('agent running')}", "the agent is gone")
            await page.until(strip("agent running"), "it comes back")
            await page.go(f"{origin}/#/v/bench-ev")
            await page.until(f"{PLOT} && {inked()} > 500", "a chart is drawn")
            await page.until("/2 runs/.test(document.body.innerText)", "both runs are known")

    run(look())


def test_what_a_bench_refuses_is_said_beside_the_button(tmp_path: Path) -> None:
    async def look() -> None:
        async with (
            bench(tmp_path) as origin,
            # An answer with the status of an error is an error to a browser's console.
            opened(tmp_path / "profile", origin, "#/bench", quiet=False) as page,
        ):
            field = f"{fault('cloud-status')} input"
            await page.click(field)
            await page.evaluate(f"document.querySelector('{field}').select()")
            await page.type("9999")
            await page.click(f"{fault('cloud-status')} button")
            said = f"document.querySelector('{fault('cloud-status')} .said').innerText"
            await page.until(f"/code/.test({said})", "the reason")
            assert await page.evaluate("document.activeElement.innerText === 'Press'")

    run(look())
