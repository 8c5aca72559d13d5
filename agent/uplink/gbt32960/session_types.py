"""What goes into a session and what comes out of it: small values, no wire format.

A driver turns what happens (a connection, a frame of the platform, a new report) into events, and
carries out the actions in the order in which they are given.

The store has every report before the session hears of it, so the session owes it nothing but the
news of what became of one:

    Confirmed    the platform has it
    Dropped      it is given up (`REFUSED`, `EXPIRED`)

What has neither when the connection ends is forgotten without a word, and lies in the store as
before; `Fetch` asks for it again on the next connection. Reports are told apart by their `key`.
"""

import dataclasses
import enum

from agent.clock import BootNs, WallNs


class Edition(enum.Enum):
    """GB/T 32960.3-2016 or -2025."""

    E2016 = 2016
    E2025 = 2025


class Link(enum.Enum):
    """How a session stands; the value is for people."""

    OFF = "off"
    DOWN = "waits to connect"
    CONNECTING = "connects"
    LOGIN = "logs in"
    ONLINE = "online"
    LEAVING = "logs out"
    STOPPED = "stopped"


class Command(enum.Enum):
    """Commands of the terminal that a platform may answer."""

    LOGIN = "login"
    REALTIME = "realtime"
    REISSUE = "reissue"
    LOGOUT = "logout"
    HEARTBEAT = "heartbeat"
    TIME_SYNC = "time sync"


class Result(enum.Enum):
    """The answer flag; from `VIN_UNKNOWN` on they are of 2025."""

    OK = "ok"
    ERROR = "error"
    DUPLICATE_VIN = "duplicate VIN"
    VIN_UNKNOWN = "VIN unknown"
    SIGNATURE = "signature error"
    STRUCTURE = "structure error"
    DECRYPTION = "decryption error"
    UNKNOWN = "a flag that the standard does not have"


class Reason(enum.Enum):
    """Why a report is given up."""

    REFUSED = "refused by the platform each time"
    EXPIRED = "older than a reissue may be"


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """One frame of the vehicle's values, as it may go out."""

    key: int
    """Unique, and rising in the order in which reports were made. The same report has the same key
    live and lent."""
    wall: WallNs
    """The time that is reported. It never changes, however late the report."""
    content: object = dataclasses.field(default=None, compare=False, repr=False)
    """The driver's own."""


@dataclasses.dataclass(frozen=True, slots=True)
class SerialState:
    """The login serial, to be kept over restarts."""

    day: int = 0
    """Of Beijing, in days since 1970-01-01."""
    serial: int = 0
    """The last one that was used; 0: none."""


# ---- events


@dataclasses.dataclass(frozen=True, slots=True)
class Active:
    """Whether the vehicle is awake, so that reports are made. A session begins inactive."""

    active: bool


@dataclasses.dataclass(frozen=True, slots=True)
class StoreWaits:
    """The store has something to lend.

    To be told at the start, and when the store got something after an empty `Lent`. To tell it too
    often does no harm.
    """


@dataclasses.dataclass(frozen=True, slots=True)
class Live:
    """A new report, in the order of keys. It goes out at once or not at all: the store has it."""

    report: Report


@dataclasses.dataclass(frozen=True, slots=True)
class Lent:
    """The answer to `Fetch`: the oldest waiting reports, oldest first; none of them twice.

    Waiting are those that are neither confirmed nor dropped, and were not lent on this connection.
    Empty: nothing more until the next `StoreWaits`.

    One that the session has under way already (a live one) may be among them and is not sent
    twice. With no connection, or one that ends, they are forgotten.
    """

    reports: tuple[Report, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Connected:
    """What `Connect` asked for is there, TLS included."""


@dataclasses.dataclass(frozen=True, slots=True)
class Lost:
    """No connection: it broke, or could not be made. Not told after a `Close`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answered:
    """The platform answered a command on the present connection."""

    command: Command
    result: Result
    time: WallNs | None = None
    """What the answer repeats or, for a time sync, tells. None: nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """0x80, the platform asks for parameters."""

    time: WallNs
    ids: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class SetParameters:
    """0x81, the platform sets parameters: raw integers, None where it is no integer."""

    time: WallNs
    values: tuple[tuple[int, int | None], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Control:
    """0x82, whatever it is that the platform wants done."""

    time: WallNs
    id: int


@dataclasses.dataclass(frozen=True, slots=True)
class ClockQuality:
    """Whether the wall clock can be believed. A session begins with a good one."""

    good: bool


@dataclasses.dataclass(frozen=True, slots=True)
class BatterySwapped:
    """2025: a battery swap needs a new login. 2016 does not know it: nothing happens."""


@dataclasses.dataclass(frozen=True, slots=True)
class Stop:
    """The agent ends: the connection is closed, and nothing that comes later counts."""


Event = (
    Active
    | StoreWaits
    | Live
    | Lent
    | Connected
    | Lost
    | Answered
    | Query
    | SetParameters
    | Control
    | ClockQuality
    | BatterySwapped
    | Stop
)


# ---- actions


@dataclasses.dataclass(frozen=True, slots=True)
class Connect:
    """Open a connection; answer with `Connected` or `Lost`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Close:
    """End the connection, or the attempt at one, after what was to be sent before.

    Nothing is told of it afterwards. Nothing is lent or under way any more.
    """

    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class SendLogin:
    """0x01."""

    time: WallNs
    serial: int


@dataclasses.dataclass(frozen=True, slots=True)
class SendLogout:
    """0x04; `serial` is that of the login."""

    time: WallNs
    serial: int


@dataclasses.dataclass(frozen=True, slots=True)
class SendHeartbeat:
    """0x07."""


@dataclasses.dataclass(frozen=True, slots=True)
class SendTimeSync:
    """0x08."""


@dataclasses.dataclass(frozen=True, slots=True)
class SendRealtime:
    """0x02."""

    report: Report


@dataclasses.dataclass(frozen=True, slots=True)
class SendReissue:
    """0x03."""

    report: Report


@dataclasses.dataclass(frozen=True, slots=True)
class SendReply:
    """The answer to a down-command; `time` is that of the command."""

    command: int
    """0x80, 0x81 or 0x82."""
    time: WallNs
    ok: bool
    values: tuple[tuple[int, int | str], ...] = ()
    """Of a query: raw integers and texts."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fetch:
    """Lend the oldest waiting reports, `limit` at most, with `Lent`."""

    limit: int


@dataclasses.dataclass(frozen=True, slots=True)
class Confirmed:
    """The platform has it: live or lent, the store need not keep it."""

    report: Report


@dataclasses.dataclass(frozen=True, slots=True)
class Dropped:
    """It is not sent again: the store need not keep it, the ledger counts it.

    `Lost` may lead to it, too, for a report that was under way then.
    """

    report: Report
    reason: Reason


@dataclasses.dataclass(frozen=True, slots=True)
class KeepSerial:
    """Make this durable before the login that follows goes out."""

    state: SerialState


@dataclasses.dataclass(frozen=True, slots=True)
class KeepParameters:
    """The platform has changed parameters: keep them, as raw integers by id.

    What they mean now is in `Session.parameters`; the driver brings its `report_ms` to the maker of
    reports. In an alarm that makes one each second, which is what any alarm period allows.
    """

    values: tuple[tuple[int, int], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class ClockTold:
    """What time it is, says the platform."""

    time: WallNs


@dataclasses.dataclass(frozen=True, slots=True)
class SetTimer:
    """Call `tick` at this time; replaces the timer before. None: no timer."""

    at: BootNs | None


Action = (
    Connect
    | Close
    | SendLogin
    | SendLogout
    | SendHeartbeat
    | SendTimeSync
    | SendRealtime
    | SendReissue
    | SendReply
    | Fetch
    | Confirmed
    | Dropped
    | KeepSerial
    | KeepParameters
    | ClockTold
    | SetTimer
)
