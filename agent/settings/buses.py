"""The kinds of `[[bus]]`."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from agent.settings.diagnostics import Obd, ObdDtc, Uds, UdsDtc
from agent.settings.types import Name, described


class AnyBus(Struct, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    name: Annotated[
        Name, described("What the bus is called everywhere: in plans, batches, status.")
    ]
    block_ms: Annotated[
        int, Meta(ge=10, le=5000, description="A block of frames is handed on at least this often.")
    ] = 500
    transmit: Annotated[
        bool, described("Allow this program to send on the bus. Nothing sends without it.")
    ] = False


class SocketCanBus(AnyBus, tag="socketcan", kw_only=True):
    """A CAN interface of the kernel."""

    interface: Annotated[
        str,
        Meta(
            pattern=r"^[^/\s]{1,15}\Z",
            description="The network interface, such as can0; waited for while it is missing.",
        ),
    ]
    receive_buffer_kib: Annotated[
        int,
        Meta(
            ge=64,
            le=1_048_576,
            description="What the kernel may hold for us, KiB; bounded by net.core.rmem_max.",
        ),
    ] = 8192
    bitrate: Annotated[
        int,
        Meta(ge=0, le=20_000_000, description="For the bus load, where the kernel does not know."),
    ] = 0
    hardware_stamps: Annotated[bool, described("Date frames by the controller's own clock.")] = (
        False
    )
    require_listen_only: Annotated[
        bool, described("Refuse to start on a controller that is not in listen-only mode.")
    ] = False
    kernel_filter: Annotated[
        bool,
        described(
            "Let the kernel hide frames that the plan does not want; unknown ids are not seen."
        ),
    ] = False
    obd: Annotated[list[Obd], described("OBD-II parameters to ask for; needs transmit.")] = (
        msgspec.field(default_factory=list)
    )
    obd_dtc: Annotated[list[ObdDtc], described("OBD-II trouble codes; needs transmit.")] = (
        msgspec.field(default_factory=list)
    )
    uds: Annotated[list[Uds], described("UDS data identifiers; needs transmit.")] = msgspec.field(
        default_factory=list
    )
    uds_dtc: Annotated[list[UdsDtc], described("UDS trouble codes; needs transmit.")] = (
        msgspec.field(default_factory=list)
    )

    @property
    def asks(self) -> bool:
        """Whether any diagnostic request is set up."""
        return bool(self.obd or self.obd_dtc or self.uds or self.uds_dtc)


class RecordingBus(AnyBus, tag="recording", kw_only=True):
    """A recording that stands in for a bus."""

    path: Annotated[str, described("candump, asc, blf, trc, mf4 or gvret csv; also .gz .xz .zst")]
    channel: Annotated[str, described("Only this channel of the recording; empty means all.")] = ""
    speed: Annotated[
        float, Meta(ge=0, description="1 plays at the recorded speed, 10 ten times, 0 flat out.")
    ] = 1.0
    loop: Annotated[bool, described("Begin again at the end.")] = False


class SlcanBus(AnyBus, tag="slcan", kw_only=True):
    """A serial adapter that speaks LAWICEL ASCII."""

    device: Annotated[str, described("The serial device, such as /dev/ttyACM0.")]
    bitrate: Annotated[
        Literal[10_000, 20_000, 50_000, 100_000, 125_000, 250_000, 500_000, 800_000, 1_000_000],
        described("Bits a second on the bus."),
    ] = 500_000
    data_bitrate: Annotated[
        Literal[0, 500_000, 1_000_000, 2_000_000, 4_000_000, 5_000_000, 8_000_000],
        described("Of the data part of CAN FD frames, bit/s; 0 where the bus has none."),
    ] = 0
    timestamps: Annotated[bool, described("Use the adapter's own stamps of milliseconds.")] = False
    baudrate: Annotated[
        int,
        Meta(ge=300, le=12_000_000, description="Of the serial line; adapters on USB do not mind."),
    ] = 115_200
    listen_only: Annotated[
        bool, described("Open the adapter so that it does not even acknowledge.")
    ] = True


class PythonCanBus(AnyBus, tag="python-can", kw_only=True):
    """Any interface that python-can supports."""

    interface: Annotated[
        str, described("python-can's name of the interface: pcan, kvaser, socketcand, ...")
    ]
    channel: Annotated[str, described("python-can's channel.")] = ""
    options: Annotated[
        dict[str, str | int | float | bool], described("Further options of that interface.")
    ] = msgspec.field(default_factory=dict)


class GnssBus(Struct, kw_only=True, forbid_unknown_fields=True, tag="gnss", tag_field="kind"):
    """A GNSS receiver: position, speed, heading and time as signals."""

    name: Annotated[Name, described('What it is called everywhere; "gnss" is usual.')]
    device: Annotated[str, described("A serial device that gives NMEA 0183.")] = ""
    baudrate: Annotated[
        int, Meta(ge=300, le=4_000_000, description="Of the serial line, bit/s.")
    ] = 9600
    gpsd: Annotated[str, described("host:port of a gpsd to ask in place of a device.")] = ""


Bus = SocketCanBus | SlcanBus | PythonCanBus | RecordingBus | GnssBus
