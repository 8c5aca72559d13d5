"""`[uplink.gbt32960]`: a vehicle that reports to a platform by GB/T 32960.3."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from agent.settings.types import described

Codes24 = Annotated[list[str], Meta(max_length=50, description="Codes of packs.")]


class Gbt32960(Struct, kw_only=True, forbid_unknown_fields=True):
    """Who this vehicle is to the platform, and how the two speak."""

    edition: Annotated[Literal[2016, 2025], described("Which edition of the standard.")] = 2016
    vin: Annotated[str, Meta(pattern=r"^[!-~]{1,17}\Z", description="VIN, 17 characters.")]
    iccid: Annotated[
        str, Meta(pattern=r"^[0-9A-Za-z]{0,20}\Z", description="ICCID of the SIM.")
    ] = ""
    iccid_file: Annotated[
        str, described("Its first word is the ICCID, in place of `iccid`; read at each login.")
    ] = ""
    subsystem_codes: Annotated[
        list[Annotated[str, Meta(max_length=50)]],
        Meta(
            max_length=250,
            description="2016: codes of the rechargeable subsystems, all of one length.",
        ),
    ] = msgspec.field(default_factory=list)
    subsystems: Annotated[
        int, Meta(ge=0, le=250, description="2016: how many there are, where codes are not sent.")
    ] = 1
    pack_codes: Annotated[
        list[Codes24],
        Meta(max_length=20, description="2025: for each battery system the codes of its packs."),
    ] = msgspec.field(default_factory=list)
    report_s: Annotated[
        int, Meta(ge=1, le=30, description="Between two reports, s. A platform may change it.")
    ] = 10
    heartbeat_s: Annotated[
        int, Meta(ge=1, le=240, description="Between two heartbeats, s. A platform may change it.")
    ] = 60
    heartbeats_answered: Annotated[
        bool,
        described(
            "The platform answers heartbeats, as it has to. If not, a report counts as delivered "
            "when the link has stood for answer_timeout_s after it."
        ),
    ] = True
    answer_timeout_s: Annotated[
        int, Meta(ge=1, le=600, description="How long an answer may take, s.")
    ] = 60
    login_retry_s: Annotated[
        int,
        Meta(
            ge=0,
            le=3600,
            description="After a login without answer, s. 0: 60 in 2016, 180 in 2025. The text of "
            "2016 says 1 min and 3 min.",
        ),
    ] = 0
    login_pause_min: Annotated[
        int, Meta(ge=1, le=240, description="After three logins without answer, min.")
    ] = 30
    reissue_days: Annotated[
        float,
        Meta(
            gt=0,
            le=366,
            description="Reports are reissued up to this age, days. One text of 2016 says 3.",
        ),
    ] = 7.0
    reissue_per_s: Annotated[
        float, Meta(gt=0, le=1000, description="At most so many reissues in a second.")
    ] = 10.0
    alarm_after_s: Annotated[
        float, Meta(ge=0, le=3600, description="All samples so long after an alarm begins, s.")
    ] = 30.0
    alarm_until_end: Annotated[
        bool | None,
        described("All samples until the alarm ends. Without it: in 2025 yes, in 2016 no."),
    ] = None
    time_sync: Annotated[
        bool, described("Ask the platform for the time while the computer's clock is not set.")
    ] = True
    sign: Annotated[
        list[str],
        described(
            "2025: command that signs. It gets the bytes on standard input and prints kind (SM2, "
            "RSA, ECC), R and S in hexadecimal. Empty: reports are not signed."
        ),
    ] = msgspec.field(default_factory=list)
    signature_covers_marker: Annotated[
        bool, described("2025: the signature covers its own 0xFF byte. Sources differ.")
    ] = False
