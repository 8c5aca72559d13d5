"""Blocking work in a thread that nobody waits for when the program ends.

The threads of `asyncio.to_thread` are waited for at the end of the event loop: a server that
answers slowly, or a plan that takes long to compile, would hold up a stop. What runs here has to
bear to be cut off anywhere, as by a power cut.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

NAME = "apart"
"""How these threads are called."""


async def apart(work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """What `work` gives; raises what it raises. Whoever is cancelled meanwhile leaves it behind."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def tell(finish: Callable[[], None]) -> None:
        if not done.done():
            finish()

    def run() -> None:
        finish: Callable[[], None]
        try:
            result = work(*args, **kwargs)
        except BaseException as e:  # noqa: BLE001 - it is raised where the result is waited for
            error = e
            finish = lambda: done.set_exception(error)  # noqa: E731
        else:
            finish = lambda: done.set_result(result)  # noqa: E731
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, finish)

    threading.Thread(target=run, name=NAME, daemon=True).start()
    return await done
