"""How a platform answers, and what it does wrong: plain values that can be changed at any time."""

import dataclasses
import enum
from typing import Final

LOGIN: Final = 0x01
REALTIME: Final = 0x02
REISSUE: Final = 0x03
LOGOUT: Final = 0x04
HEARTBEAT: Final = 0x07
TIME_SYNC: Final = 0x08
REPORTS: Final = (REALTIME, REISSUE)


class Answer(enum.Enum):
    """Answers that are seen in the field."""

    CORRECT = "correct"
    """As the standard has it: none to a right report, and the time of what is answered."""
    ECHO = "echo"
    """Success, with the whole data unit."""
    TIME = "time"
    """Success, with the time only; that of the platform where the data unit has none."""
    EMPTY = "empty"
    """Success, without a data unit."""
    ERROR = "error"
    DUPLICATE = "duplicate"
    """This VIN is somebody else's."""
    NEVER = "never"


class Mischief(enum.Enum):
    """What a hostile platform sends to a vehicle right after its login; see `mischief`."""

    GARBAGE = "garbage"
    ENDLESS = "endless"
    HUGE = "huge"
    COUNTS = "counts"
    UNKNOWN = "unknown"
    CONTROL = "control"
    UNASKED = "unasked"


@dataclasses.dataclass(kw_only=True)
class Behaviour:
    """Of one platform; zeros and empty things are nothing special."""

    answers: Answer = Answer.CORRECT
    """To realtime reports and reissues."""
    commands: dict[int, Answer] = dataclasses.field(default_factory=dict)
    """To single commands, before everything else."""
    delay_s: float = 0.0
    """Answers go out so late."""
    piece_bytes: int = 0
    """Answers go out in pieces of so many bytes, each a segment of its own."""
    piece_gap_s: float = 0.001
    """Between two pieces."""
    merge: int = 0
    """So many answers go out together; after `merge_s` those that there are."""
    merge_s: float = 0.05
    drop_after_frames: int = 0
    """A link is dropped after so many frames, the last of which is kept and not answered."""
    drop_every_s: float = 0.0
    """A link is dropped so long after its login."""
    garbage_bytes: int = 0
    """So many bytes that are no frame go before each answer."""
    mischief: tuple[Mischief, ...] = ()
    login_s: float = 30.0
    """Who has not logged in by then is dropped."""
    silence_s: float = 720.0
    """Who sends nothing for so long is dropped: three of the longest heartbeat periods."""

    def to(self, command: int) -> Answer:
        """The style of the answer to a command."""
        usual = self.answers if command in REPORTS else Answer.CORRECT
        return self.commands.get(command, usual)
