"""How often one platform wants reports, shared between who makes and who sends them."""

import dataclasses

from agent.gbt32960.layout import Edition


@dataclasses.dataclass(slots=True)
class Tuning:
    """Of one platform. The event loop sets single fields; the decode thread reads them."""

    edition: Edition = 2016
    report_s: float = 10.0
    """Between two reports."""
    alarm_level: int = 3
    """From here on an alarm is reported with the time before it."""
    alarm_before_s: float = 30.0
    alarm_after_s: float = 30.0
    """From the begin of the alarm on, at least."""
    alarm_until_end: bool = False
    """Also as long as the alarm lasts, as 2025 has it."""
    off_reports_s: float = 180.0
    """Reports go on for so long after the vehicle was switched off."""
    off_watch_s: float = 180.0
    """So long is it watched at all; 2025: 1 h, with one report at the end."""
    off_last_s: float = 30.0
    """One report in the last so many seconds of the watch."""
