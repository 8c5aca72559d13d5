"""The buses of a bench: a vehicle's frames go in, the agent reads what comes out.

Each is what the agent knows from vehicles: an interface of the kernel, a serial adapter (on a
pseudo-terminal), or, for a computer that has neither, a socketcand server on a loopback port, which
python-can reads. And each can go bus-off in the way that such a bus does.
"""

import contextlib
import json
import select
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, Protocol

from agent.bench.adapter import VirtualAdapter
from agent.bench.play import Sink, SocketCanSink
from agent.blocks import ERROR, EXTENDED, FD_FRAME, ID_BITS, REMOTE, FrameBlock
from agent.errors import BusError, ConfigError

Kind = Literal["vcan", "slcan", "memory"]

# Classes of error frames, linux/can/error.h.
_BUS_OFF: Final = 0x40
_RESTARTED: Final = 0x100
_UP: Final = 1  # IFF_UP, linux/if.h
_POLL_S: Final = 0.05
_CLASSIC_MTU: Final = struct.Struct("=IB3x8s")


class BenchSink(Sink, Protocol):
    """A bus that can go bus-off. `send` belongs to one thread, the others to any other."""

    kind: Kind
    skipped: int
    """Frames that this kind of bus cannot carry."""

    def settings(self, bitrate: int) -> str:
        """What the `[[bus]]` of a device file says of it, less the name."""
        ...

    def bus_off(self) -> None:
        """The controller leaves the bus: no frame arrives until `bus_on`."""
        ...

    def bus_on(self) -> None: ...


class AdapterBus:
    """A serial adapter; at bus-off it goes away, as one that is reset on USB does."""

    kind: Kind = "slcan"

    def __init__(self, path: Path, stop: threading.Event) -> None:
        self.name = str(path)
        self.skipped = 0
        self._path = path
        self._stop = stop
        self._lock = threading.Lock()
        self._adapter: VirtualAdapter | None = VirtualAdapter(path, stop)

    def settings(self, bitrate: int) -> str:
        return f'kind = "slcan"\ndevice = {json.dumps(self.name)}\nbitrate = {bitrate}\n'

    def ready(self) -> bool:
        while not self._stop.is_set():
            adapter = self._adapter
            if adapter is not None and adapter.opened.wait(_POLL_S):
                return True
            if adapter is None:
                self._stop.wait(_POLL_S)
        return False

    def send(self, block: FrameBlock) -> int:
        with self._lock:
            return self._adapter.send(block) if self._adapter is not None else 0

    def bus_off(self) -> None:
        with self._lock:
            if self._adapter is not None:
                self._adapter.close()
                self._adapter = None

    def bus_on(self) -> None:
        with self._lock:
            if self._adapter is None:
                self._adapter = VirtualAdapter(self._path, self._stop)

    def close(self) -> None:
        with self._lock:
            if self._adapter is not None:
                with contextlib.suppress(OSError):
                    self._adapter.drain()
                self._adapter.close()
                self._adapter = None


class KernelBus:
    """A vcan interface that is there; bus-off is told by error frames, as by a driver.

    Raises:
        BusError: there is no such interface, or it is down.
    """

    kind: Kind = "vcan"

    def __init__(self, interface: str, stop: threading.Event) -> None:
        self.name = interface
        self.skipped = 0
        self._off = threading.Event()
        self._sink = SocketCanSink(interface, stop)

    def settings(self, bitrate: int) -> str:
        return f'kind = "socketcan"\ninterface = "{self.name}"\nbitrate = {bitrate}\n'

    def ready(self) -> bool:
        return self._sink.ready()

    def send(self, block: FrameBlock) -> int:
        return 0 if self._off.is_set() else self._sink.send(block)

    def bus_off(self) -> None:
        self._off.set()
        self._tell(_BUS_OFF)

    def bus_on(self) -> None:
        self._tell(_RESTARTED)
        self._off.clear()

    def _tell(self, what: int) -> None:
        try:
            with _raw_socket(self.name) as bus:
                bus.send(_CLASSIC_MTU.pack(ERROR | what, 8, bytes(8)))
        except OSError as e:
            raise BusError(f"cannot send on {self.name} ({e})") from e

    def close(self) -> None:
        self._sink.close()


class SocketcandBus:
    """A socketcand server for one client on a loopback port; classic data frames.

    (github.com/linux-can/socketcand, doc/protocol.md)

    Raises:
        BusError: no port can be listened on.
    """

    kind: Kind = "memory"

    def __init__(self, stop: threading.Event) -> None:
        self.name = "memory"
        self.skipped = 0
        self._stop = stop
        self._off = threading.Event()
        self._closing = threading.Event()
        self._open = threading.Event()
        self._client: socket.socket | None = None
        try:
            self._listener = socket.create_server(("127.0.0.1", 0))
        except OSError as e:
            raise BusError(f"no port for a bus on 127.0.0.1 ({e})") from e
        self._port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, name="socketcand", daemon=True)
        self._thread.start()

    def settings(self, bitrate: int) -> str:
        del bitrate  # nobody asks for it here
        return (
            'kind = "python-can"\ninterface = "socketcand"\nchannel = "bench"\n'
            f'options = {{ host = "127.0.0.1", port = {self._port} }}\n'
        )

    def ready(self) -> bool:
        while not self._stop.is_set():
            if self._open.wait(_POLL_S):
                return True
        return False

    def send(self, block: FrameBlock) -> int:
        if self._off.is_set() or not self._open.is_set():
            return 0
        able = block.id & (REMOTE | ERROR) == 0
        able &= block.flags & FD_FRAME == 0
        rows = block[able]
        self.skipped += len(block) - len(rows)
        text = "".join(_lines(rows))
        return len(rows) if self._write(text.encode()) else 0

    def bus_off(self) -> None:
        self._off.set()
        self._write(f"< error {_BUS_OFF:03X} 0.0 >".encode())

    def bus_on(self) -> None:
        self._write(f"< error {_RESTARTED:03X} 0.0 >".encode())
        self._off.clear()

    def close(self) -> None:
        # What was written is read by a client that still reads; its end says so.
        with contextlib.suppress(OSError):
            if self._client is not None:
                self._client.shutdown(socket.SHUT_WR)
        self._closing.set()
        self._thread.join()
        self._listener.close()

    def _write(self, data: bytes) -> bool:
        """All of it; False where the client has gone, or at the stop."""
        client = self._client
        left = memoryview(data)
        while client is not None and left and self._open.is_set() and not self._stop.is_set():
            with contextlib.suppress(BlockingIOError):
                try:
                    left = left[client.send(left, socket.MSG_DONTWAIT) :]
                except ConnectionError:
                    return False
                continue
            select.select([], [client], [], _POLL_S)
        return client is not None and not left

    def _serve(self) -> None:
        while not self._closing.is_set():
            if not select.select([self._listener], [], [], _POLL_S)[0]:
                continue
            client, _ = self._listener.accept()
            with client, contextlib.suppress(ConnectionError):
                self._client = client
                self._talk(client)
            self._open.clear()
            self._client = None

    def _talk(self, client: socket.socket) -> None:
        client.sendall(b"< hi >")
        said = b""
        while not self._closing.is_set():
            if not select.select([client], [], [], _POLL_S)[0]:
                continue
            data = client.recv(4096)
            if not data:
                return
            *commands, said = (said + data).split(b">")
            for command in commands:
                client.sendall(b"< ok >")
                if b"rawmode" in command:
                    self._open.set()
            said = said[-256:]


def _lines(block: FrameBlock) -> Iterator[str]:
    columns = (block.id.tolist(), block.length.tolist(), block.data)
    for identifier, length, data in zip(*columns, strict=True):
        number = identifier & ID_BITS
        text = f"{number:08X}" if identifier & EXTENDED else f"{number:03X}"
        yield f"< frame {text} 0.0 {data[:length].tobytes().hex()} >"


def open_sink(kind: str, folder: Path, stop: threading.Event) -> BenchSink:
    """The bus of this kind; `auto` is the first that there is of vcan, slcan, memory.

    An interface may be named, such as `vcan1`; `vcan` is the first one.

    Raises:
        ConfigError: this computer has none of that kind.
    """
    if kind.startswith("vcan") or kind == "auto":
        named = kind.removeprefix("auto")
        interface = next((each for each in _interfaces() if named in ("", "vcan", each)), None)
        if interface is not None:
            return KernelBus(interface, stop)
        if named:
            name = "vcan0" if named == "vcan" else named
            raise ConfigError(
                f"{name} cannot be used here; as root, 'ip link add {name} type vcan' and "
                f"'ip link set {name} up' make it, where the kernel has it; or leave --bus out"
            )
    if kind in ("auto", "slcan"):
        try:
            return AdapterBus(folder / "can", stop)
        except BusError as e:
            if kind == "slcan":
                raise ConfigError(f"{e}; --bus memory needs no pseudo-terminal") from e
    return SocketcandBus(stop)


def _interfaces() -> Iterator[str]:
    """Those of vcan that are up and may be used."""
    for path in sorted(Path("/sys/class/net").glob("vcan*")):
        with contextlib.suppress(OSError, AttributeError, ValueError):
            # A socket may be bound to one that is down.
            if path.name[4:].isdecimal() and int((path / "flags").read_text(), 16) & _UP:
                _raw_socket(path.name).close()
                yield path.name


def _raw_socket(interface: str) -> socket.socket:
    """Raises OSError: there is no such interface, or the kernel has no CAN."""
    bus = socket.socket(socket.AF_CAN, socket.SOCK_RAW, socket.CAN_RAW)
    try:
        bus.bind((interface,))
    except OSError:
        bus.close()
        raise
    return bus
