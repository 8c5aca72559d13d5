"""What the session wants to be sent, as frames on the channel; and what is said in the log."""

import asyncio
import logging
from typing import Final

from agent.clock import SECOND, BootNs, Clock
from agent.uplink.gbt32960.card import Card
from agent.uplink.gbt32960.channel import Channel
from agent.uplink.gbt32960.frames import REALTIME, REISSUE, Words
from agent.uplink.gbt32960.rows import Row
from agent.uplink.gbt32960.session_types import (
    Action,
    Report,
    SendHeartbeat,
    SendLogin,
    SendLogout,
    SendRealtime,
    SendReissue,
    SendReply,
    SendTimeSync,
)
from agent.uplink.gbt32960.tally import Tally

_log = logging.getLogger("edge_agent.uplink")

_QUIET_NS: Final = 600 * SECOND


class Speaker:
    """Of one uplink. What cannot be sent is no matter: the channel tells that it has ended."""

    def __init__(self, words: Words, card: Card, channel: Channel, tally: Tally) -> None:
        self._words = words
        self._card = card
        self._channel = channel
        self._tally = tally

    async def say(self, action: Action) -> None:
        """Carry out an action that sends something; any other is none of its business."""
        words, send = self._words, self._channel.send
        match action:
            case SendRealtime(report):
                self._tally.live += await self._report(REALTIME, report)
            case SendReissue(report):
                self._tally.reissued += await self._report(REISSUE, report)
            case SendHeartbeat():
                await send(words.heartbeat())
            case SendTimeSync():
                await send(words.time_sync())
            case SendLogin(time, serial):
                iccid = await asyncio.to_thread(self._card.read)
                await send(words.login(time, serial, iccid))
            case SendLogout(time, serial):
                await send(words.logout(time, serial))
            case SendReply():
                data, well = words.reply(action)
                self._tally.commands_refused += not well
                await send(data)

    async def _report(self, command: int, report: Report) -> bool:
        row = report.content
        assert isinstance(row, Row)  # noqa: S101  as the sender made it
        return await self._channel.send(self._words.report(command, row))


class Voice:
    """The log of one uplink: what begins and what goes wrong, each kind once while it lasts."""

    def __init__(self, name: str, clock: Clock) -> None:
        self._name = name
        self._clock = clock
        self._said: set[str] = set()
        self._said_at = BootNs(0)
        self._up = False

    def trouble(self, key: str, words: str) -> None:
        """Something goes wrong; `key` names its kind."""
        if key not in self._said:
            self._said.add(key)
            self._said_at = self._clock.boot()
            self._up = False
            _log.warning("uplink %s: %s", self._name, words)

    def up(self) -> None:
        """The link is there."""
        if not self._up:
            self._up = True
            _log.info("uplink %s: logged in at the platform", self._name)

    def well(self) -> None:
        """Reports arrive. Trouble is news again, but not that of a link that goes up and down."""
        if self._said and self._clock.boot() - self._said_at >= _QUIET_NS:
            self._said.clear()
