"""The sources of a `[[bus]]`, and the tables that they make besides frames.

Modules of a kind are imported only where a bus is of that kind: some are slow to import, and some
need an extra.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from agent.blocks import TableSchema
from agent.bus.early import EarlyFrames
from agent.bus.recording import RecordingSource
from agent.bus.source import Source
from agent.clock import BootNs, Clock, WallNs
from agent.errors import ConfigError
from agent.settings import Bus, GnssBus, PythonCanBus, RecordingBus, SlcanBus, SocketCanBus

if TYPE_CHECKING:
    from agent.bus.diagnostics import Request

# ruff: noqa: PLC0415 - see above


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What sources need of the process."""

    clock: Clock
    date: Callable[[BootNs, WallNs], None]
    """Takes what time a GNSS receiver says it was at a boot time."""
    early: Callable[[str], EarlyFrames | None] = lambda _bus: None
    """Gives the socket of a bus that was opened before everything else, once."""
    awake: Callable[[], bool] = lambda: True
    """Whether the key is on, as far as is known."""
    filters: Callable[[str], list[tuple[int, int]] | None] = lambda _bus: None
    """What the plan wants of a bus, as filters of the kernel; None for everything."""


def tables_of(bus: Bus) -> tuple[TableSchema, ...]:
    """What the sources of a bus give besides frames.

    Raises:
        ConfigError: a diagnostic request that cannot be.
    """
    match bus:
        case SocketCanBus():
            from agent.bus import errorframes

            own = errorframes.schemas(bus.name)
            if not bus.asks:
                return own
            from agent.bus import diagnostics

            try:
                return own + tuple(diagnostics.schemas(bus.name, _requests(bus)))
            except ConfigError as e:
                raise ConfigError(f'agent.toml: bus "{bus.name}": {e}') from e
        case GnssBus():
            from agent.bus import gnss

            return gnss.schemas(bus.name)
    return ()


def sources_of(bus: Bus, around: Surroundings) -> list[Source]:
    """The sources of a bus; nothing runs yet.

    Raises:
        BusError: a recording cannot be read, or what reads a receiver is not installed.
        ConfigError: the bus is set up in a way that cannot be.
    """
    clock = around.clock
    match bus:
        case SocketCanBus():
            from agent.bus.socketcan import SocketCanSource

            sources: list[Source] = [
                SocketCanSource(
                    bus.name,
                    bus.interface,
                    block_ms=bus.block_ms,
                    receive_buffer_bytes=bus.receive_buffer_kib << 10,
                    hardware_stamps=bus.hardware_stamps,
                    bitrate=bus.bitrate or None,
                    require_listen_only=bus.require_listen_only,
                    filters=around.filters(bus.name) if bus.kernel_filter else None,
                    early=around.early(bus.name),
                    clock=clock,
                )
            ]
            if bus.asks:
                from agent.bus.diagnostics import DiagnosticsSource

                sources.append(
                    DiagnosticsSource(
                        bus.name,
                        bus.interface,
                        _requests(bus),
                        transmit=bus.transmit,
                        awake=around.awake,
                        clock=clock,
                    )
                )
            return sources
        case RecordingBus():
            return [
                RecordingSource(
                    bus.name,
                    bus.path,
                    channel=bus.channel or None,
                    speed=bus.speed,
                    loop=bus.loop,
                    block_ms=bus.block_ms,
                    clock=clock,
                )
            ]
        case SlcanBus():
            from agent.bus.slcan import SlcanSource

            return [
                SlcanSource(
                    bus.name,
                    bus.device,
                    bitrate=bus.bitrate,
                    data_bitrate=bus.data_bitrate or None,
                    timestamps=bus.timestamps,
                    baudrate=bus.baudrate,
                    listen_only=bus.listen_only,
                    block_ms=bus.block_ms,
                    clock=clock,
                )
            ]
        case PythonCanBus():
            from agent.bus.pythoncan import PythonCanSource

            return [
                PythonCanSource(
                    bus.name, bus.interface, bus.channel, bus.options, bus.block_ms, clock=clock
                )
            ]
        case GnssBus():
            from agent.bus.gnss import GnssSource

            return [
                GnssSource(
                    bus.name,
                    device=bus.device,
                    baudrate=bus.baudrate,
                    gpsd=bus.gpsd,
                    clock=clock,
                    anchor=around.date,
                )
            ]


def _requests(bus: SocketCanBus) -> list["Request"]:
    """The diagnostic requests of a bus.

    Raises:
        ConfigError: one that cannot be.
    """
    from agent.bus import diagnostics

    found: list[Request] = [
        diagnostics.ObdRequest(pids=r.pids, interval_s=r.interval_s, address=r.address)
        for r in bus.obd
    ]
    found += [
        diagnostics.ObdDtcRequest(services=r.services, interval_s=r.interval_s, address=r.address)
        for r in bus.obd_dtc
    ]
    found += [
        diagnostics.UdsRequest(
            request_id=r.request_id,
            response_id=r.response_id,
            dids=[
                diagnostics.Did(
                    d.did, [diagnostics.Field(**msgspec.structs.asdict(f)) for f in d.field]
                )
                for d in r.did
            ],
            interval_s=r.interval_s,
            session=r.session,
            tester_present=r.tester_present,
            message=r.message,
        )
        for r in bus.uds
    ]
    found += [
        diagnostics.UdsDtcRequest(
            request_id=r.request_id,
            response_id=r.response_id,
            status_mask=r.status_mask,
            interval_s=r.interval_s,
            message=r.message,
        )
        for r in bus.uds_dtc
    ]
    return found
