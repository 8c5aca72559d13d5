"""The device file, `agent.toml`."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from agent.settings.buses import Bus
from agent.settings.gbt32960 import Gbt32960
from agent.settings.limits import Limits
from agent.settings.metrics import Metrics
from agent.settings.ota import Ota
from agent.settings.types import Name, described


class Uplink(Struct, kw_only=True, forbid_unknown_fields=True):
    """Where batches go."""

    name: Annotated[Name, described("What plans and the status call this uplink.")]
    kind: Annotated[
        Literal["http", "object-store", "mqtt", "gbt32960"],
        described(
            "`http` wants a receiver that repeats the digest of what it has stored; with "
            "`object-store` any 2xx is a success; `mqtt` is a broker that speaks MQTT 5; "
            "`gbt32960` is a platform that gets the reports of [gbt32960] in the plan."
        ),
    ] = "http"
    url: Annotated[
        str,
        Meta(
            pattern=r"^(https?|mqtts?|gbt32960s?)://[^\s]+\Z",
            description="Batches go to {url}/v1/vehicles/{vehicle}/batches/{batch_id}. "
            "An address that contains {vehicle} or {batch_id} itself is taken as a template. "
            "Of a broker: mqtt://host:1883 or mqtts://host:8883, and what topics begin with. "
            "Of a platform: gbt32960://host:port, or gbt32960s:// over TLS.",
        ),
    ]
    acknowledge: Annotated[
        Literal["cloud", "broker"],
        described(
            "Over MQTT: a batch is delivered when the `cloud` has sent a receipt for it, or when "
            "the `broker` has taken it, which must then never lose it."
        ),
    ] = "cloud"
    token_file: Annotated[
        str, described("A file with a bearer token; read again when refused.")
    ] = ""
    ca_file: Annotated[str, described("PEM certificates to trust instead of the system's.")] = ""
    client_cert_file: Annotated[
        str, described("Our certificate (PEM, with its chain); read again when it changes.")
    ] = ""
    client_key_file: Annotated[
        str, described("Its private key (PEM). Empty: it is in client_cert_file.")
    ] = ""
    proxy: Annotated[
        str,
        Meta(
            pattern=r"^(environment|http://[^\s/@]+/?)?\Z",
            description="http://host:port of a proxy, or `environment`: HTTPS_PROXY, HTTP_PROXY "
            "and NO_PROXY say it. Not of `mqtt`.",
        ),
    ] = ""
    proxy_auth_file: Annotated[str, described("A file with user:password for the proxy.")] = ""
    max_kbit_s: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000_000,
            description="The most that is sent, kbit/s. 0: no limit. Not of `mqtt`.",
        ),
    ] = 0
    connect_timeout_s: Annotated[
        float, Meta(gt=0, le=300, description="How long a connection may take to come up.")
    ] = 10.0
    stall_timeout_s: Annotated[
        float,
        Meta(gt=0, le=3600, description="A transfer that does not move for this long is given up."),
    ] = 30.0
    share: Annotated[
        float,
        Meta(gt=0, le=1000, description="Weight by which uplinks share the spool's quota."),
    ] = 1.0
    gbt32960: Annotated[
        Gbt32960 | None, described("Of `gbt32960`: the vehicle at this platform.")
    ] = None


class Link(Struct, kw_only=True, forbid_unknown_fields=True):
    """What the link to the outside costs."""

    metered: Annotated[
        Literal["auto", "yes", "no", "file", "command"],
        described(
            "Whether bytes cost money: `auto` asks NetworkManager where there is one; `file` and "
            "`command` say it with the word `metered` or `unmetered`."
        ),
    ] = "auto"
    file: Annotated[str, described("Its first word says whether the link is metered.")] = ""
    command: Annotated[
        list[str], described("The first word that it prints says whether the link is metered.")
    ] = msgspec.field(default_factory=list)
    metered_mb_day: Annotated[
        float,
        Meta(ge=0, le=1_000_000, description="Sent over metered links a day (UTC), MB. 0: any."),
    ] = 0.0
    metered_mb_month: Annotated[
        float,
        Meta(ge=0, le=1_000_000, description="Sent over metered links a month (UTC), MB. 0: any."),
    ] = 0.0


class Spool(Struct, kw_only=True, forbid_unknown_fields=True):
    """What is kept on flash."""

    quota_mb: Annotated[
        int, Meta(ge=2, le=1_000_000, description="The most that waiting batches may take, MB.")
    ] = 512
    free_floor_mb: Annotated[
        int, Meta(ge=0, le=1_000_000, description="Free space to leave on the file system, MB.")
    ] = 64
    commit_interval_s: Annotated[
        float, Meta(ge=0.1, le=60, description="At most this much is lost at a power cut, seconds.")
    ] = 1.0
    memory_mb: Annotated[
        int, Meta(ge=1, le=4096, description="What may wait in memory while the disk fails, MB.")
    ] = 32
    max_age_days: Annotated[
        float,
        Meta(ge=0, le=36_500, description="Batches that wait longer are given up, days. 0: never."),
    ] = 0.0
    keep_sent_hours: Annotated[
        float,
        Meta(ge=0, le=87_600, description="Acknowledged batches are kept so long, hours. 0: not."),
    ] = 0.0


class Batch(Struct, kw_only=True, forbid_unknown_fields=True):
    """How samples are packed."""

    seal_after_s: Annotated[
        float,
        Meta(ge=0.5, le=86_400, description="A batch is closed and sent at this age, seconds."),
    ] = 60.0
    seal_kib: Annotated[
        int, Meta(ge=16, le=65_536, description="A batch is closed at this size, KiB.")
    ] = 1024
    time_resolution_us: Annotated[
        int,
        Meta(ge=1, le=1_000_000, description="Times are stored in steps of this, microseconds."),
    ] = 1000


class Gpio(Struct, kw_only=True, forbid_unknown_fields=True):
    """A line of a GPIO chip."""

    chip: Annotated[str, described("The chip, such as /dev/gpiochip0.")]
    line: Annotated[int, Meta(ge=0, description="Number of the line.")]
    active_low: Annotated[bool, described("The key is on while the line is low.")] = False


class Ignition(Struct, kw_only=True, forbid_unknown_fields=True):
    """How key-off is known, and what is done then."""

    signal: Annotated[
        str, described("A signal that is not 0 while the key is on, such as BCM.KeyOn.")
    ] = ""
    gpio: Annotated[Gpio | None, described("A GPIO line that follows the key.")] = None
    silence_s: Annotated[
        float,
        Meta(ge=0, le=86_400, description="All buses silent for so long: the key is off. 0: no."),
    ] = 0.0
    off_after_s: Annotated[
        float, Meta(ge=0, le=3600, description="The key must be off for so long to count.")
    ] = 2.0
    deadline_s: Annotated[
        float,
        Meta(ge=0, le=3600, description="After key-off: how long sending may take."),
    ] = 30.0
    when_done: Annotated[
        Literal["wait", "exit", "command"],
        described("`wait` for the key, `exit` with status 0, or run `command`, then wait."),
    ] = "wait"
    command: Annotated[
        list[str], described('What to run when done, such as ["systemctl", "suspend"].')
    ] = msgspec.field(default_factory=list)


class Device(Struct, kw_only=True, forbid_unknown_fields=True):
    """`agent.toml`."""

    vehicle: Annotated[Name, described("The vehicle's name at the cloud.")]
    plan: Annotated[
        str, described("The collection plan that is used while none came over the air.")
    ]
    state_dir: Annotated[
        str, described("Identity and spool live here. Empty: $STATE_DIRECTORY, as systemd sets it.")
    ] = ""
    socket: Annotated[
        str,
        described(
            "The Unix socket that answers `edge-agent status`. Empty: agent.sock in state_dir."
        ),
    ] = ""
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        described("The least important line that is logged."),
    ] = "info"
    bus: Annotated[list[Bus], described("The buses.")] = msgspec.field(default_factory=list)
    ignition: Annotated[
        Ignition, described("Key-off: seal, send, and say that the computer may sleep.")
    ] = msgspec.field(default_factory=Ignition)
    uplink: Annotated[list[Uplink], described("The uplinks.")] = msgspec.field(default_factory=list)
    link: Annotated[Link, described("What the link to the outside costs.")] = msgspec.field(
        default_factory=Link
    )
    spool: Annotated[Spool, described("What is kept on flash.")] = msgspec.field(
        default_factory=Spool
    )
    batch: Annotated[Batch, described("How samples are packed.")] = msgspec.field(
        default_factory=Batch
    )
    limits: Annotated[
        Limits, described("What the agent may take from the computer: CPU, memory, bytes written.")
    ] = msgspec.field(default_factory=Limits)
    metrics: Annotated[Metrics, described("The agent's figures over HTTP, for a Prometheus.")] = (
        msgspec.field(default_factory=Metrics)
    )
    ota: Annotated[
        Ota | None, described("Plans over the air; without it the plan above is all there is.")
    ] = None

    @property
    def receivers(self) -> list[str]:
        """The uplinks that take batches, by name."""
        return [uplink.name for uplink in self.uplink if uplink.kind != "gbt32960"]

    @property
    def platforms(self) -> dict[str, Gbt32960]:
        """The uplinks that take reports, by name."""
        return {uplink.name: uplink.gbt32960 for uplink in self.uplink if uplink.gbt32960}
