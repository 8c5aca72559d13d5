"""Charts that move while an agent uploads, and signals that are chosen by keyboard and pointer."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests import processes
from tests.system.pageworld import PLOT, Filling, filled, inked, opened, run, table

pytestmark = pytest.mark.system

CHARTS = "[...document.querySelectorAll('.chart .name')].map((e) => e.innerText).join(' ')"
SEARCH = "document.querySelector('.picker input')"


@contextlib.asynccontextmanager
async def driving(folder: Path) -> AsyncIterator[str]:
    """A car, an agent and a cloud, each a process of its own; gives the cloud's origin."""
    settings = folder / "agent.toml"
    async with processes.cloud(folder / "cloud") as port, contextlib.AsyncExitStack() as stack:
        origin = f"http://127.0.0.1:{port}"
        text = f"""
            vehicle = "car-1"
            plan = "{Path(__file__).parents[2] / "config" / "plan-ev.toml"}"
            state_dir = "state"
            [[bus]]
            name = "powertrain"
            kind = "slcan"
            device = "{folder / "can"}"
            bitrate = 500_000
            [[uplink]]
            name = "cloud"
            url = "{origin}"
            [batch]
            seal_after_s = 1
        """
        await asyncio.to_thread(settings.write_text, text)
        for arguments in (
            ("simulate", "--slcan", str(folder / "can")),
            ("run", "-c", str(settings)),
        ):
            process = await processes.start(*arguments, log=folder / f"{arguments[0]}.log")
            stack.push_async_callback(processes.stop, process)
        yield origin


def test_charts_move_while_an_agent_uploads(tmp_path: Path) -> None:
    async def look() -> None:
        async with (
            driving(tmp_path) as origin,
            opened(tmp_path / "profile", origin, "#/v/car-1?s=VehicleMotion.Counter") as page,
        ):
            await page.until(f"{PLOT} && {inked()} > 500", "a chart is drawn")
            for _ in range(3):
                last = await page.evaluate("document.querySelector('.canvas').dataset.last")
                drawn = await page.evaluate(f"{PLOT}.toDataURL()")
                await page.until(
                    f"Number(document.querySelector('.canvas').dataset.last) > {last}", "more data"
                )
                await page.until(f"{PLOT}.toDataURL() !== {drawn!r}", "the chart has moved")
            assert "live" in await page.text("#link")
            streams = [r for r in page.requests if r.endswith("/v1/stream")]
            assert len(streams) == 1

    run(look())


def test_a_signal_is_chosen_by_keyboard_and_stays_in_the_address(tmp_path: Path) -> None:
    names = [f"Voltage{n}" for n in range(40)]
    batch = Filling(tmp_path).batch([table("Pack", names, 200)])

    async def look(origin: str) -> None:
        async with opened(tmp_path / "profile", origin, "#/v/car-1?s=") as page:
            await page.until("/40 signals/.test(document.body.innerText)", "the list")
            await page.key("/")
            assert await page.evaluate(f"document.activeElement === {SEARCH}")
            await page.type("voltage2")
            await page.until("/11 of 40 signals/.test(document.body.innerText)", "those that fit")
            await page.key("ArrowDown")
            await page.key("Enter")
            await page.until(f"{CHARTS} === 'Voltage20'", "the second of them is chosen")
            await page.until(f"{PLOT} && {inked()} > 500", "and drawn")
            active = f"document.getElementById({SEARCH}.getAttribute('aria-activedescendant'))"
            assert await page.evaluate(f"{active}.getAttribute('aria-selected')") == "true"
            assert "s=Pack.Voltage20" in await page.evaluate("location.hash")
            await page.key("ArrowDown")
            await page.key("Enter")
            await page.until(f"{CHARTS} === 'Voltage20 Voltage2'", "another one")
            address = await page.evaluate("location.href")
            await page.go("about:blank")
            await page.go(address)
            await page.until(f"{CHARTS} === 'Voltage20 Voltage2'", "the address has both")
            await page.key("/")
            await page.type("voltage20")
            await page.until("/1 of 40 signals/.test(document.body.innerText)", "the one that fits")
            await page.key("Enter")
            await page.until(f"{CHARTS} === 'Voltage2'", "Enter again takes it away")

    with filled(tmp_path, [batch]) as (_, origin):
        run(look(origin))


def test_a_signal_is_chosen_and_taken_away_with_the_pointer(tmp_path: Path) -> None:
    batch = Filling(tmp_path).batch([table("Pack", ["Voltage", "Current"], 200)])

    async def look(origin: str) -> None:
        async with opened(tmp_path / "profile", origin, "#/v/car-1?s=") as page:
            await page.until("document.querySelectorAll('[role=option]').length === 2", "the list")
            await page.click("[data-id='Pack.Voltage']")
            await page.until(f"{CHARTS} === 'Voltage'", "it is chosen")
            await page.click("[data-id='Pack.Current']")
            await page.until(f"{CHARTS} === 'Voltage Current'", "the other, too")
            await page.click(".chart .remove")
            await page.until(f"{CHARTS} === 'Current'", "the first is gone")

    with filled(tmp_path, [batch]) as (_, origin):
        run(look(origin))


def test_a_stretch_is_zoomed_into_by_dragging_and_left_again(tmp_path: Path) -> None:
    batch = Filling(tmp_path).batch([table("Pack", ["Voltage", "Current"], 1000)])
    path = "#/v/car-1?s=Pack.Voltage&s=Pack.Current&range=all"

    async def look(origin: str) -> None:
        async with opened(tmp_path / "profile", origin, path) as page:
            await page.until(
                "document.querySelector('.canvas')?.dataset.points === '1000' || "
                "Number(document.querySelector('.canvas')?.dataset.points) > 500",
                "all",
            )
            await page.drag(".chart .u-over", 0.25, 0.35)
            await page.until(
                "document.querySelectorAll('.canvas').length === 2 && "
                "[...document.querySelectorAll('.canvas')].every("
                "(e) => Math.abs(Number(e.dataset.points) - 101) < 5)",
                "both charts show a tenth",
            )
            zoomed = await page.evaluate("location.hash")
            assert "from=" in zoomed
            await page.evaluate("document.querySelector('.charts').focus()")
            await page.key("+")
            await page.until(f"location.hash !== {zoomed!r}", "closer still")
            await page.key("0")
            await page.until("!location.hash.includes('from=')", "as before")
            await page.until(
                "Number(document.querySelector('.canvas').dataset.points) > 500", "all"
            )

    with filled(tmp_path, [batch]) as (_, origin):
        run(look(origin))
