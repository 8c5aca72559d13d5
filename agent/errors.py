"""Every exception that leaves a room.

    AgentError
    ├── ConfigError          agent.toml, a plan, the command line or the environment
    ├── DatabaseError        a DBC file (or KCD, SYM, ARXML) of which nothing can be used
    ├── BusError             a bus or a recording that cannot be read
    ├── BatchError           a file that is no batch, or one that this version cannot read
    ├── SpoolError           the spool folder or the disk below it
    ├── UplinkError          an uplink; the cause says what may be tried again
    │   ├── TransientError
    │   ├── PermanentError
    │   └── UnauthorisedError
    └── UpdateError          configuration that came over the air

The message of each is a whole sentence for a person: what is wrong, where (file, line, key) and
what to do. A library's exception is translated where the library is called, with `from`. A bad
frame, line, chunk or reply is no exception: it is counted, and costs itself.
"""


class AgentError(Exception):
    """Anything that this program reports to a person; the message is fit to be shown."""


class ConfigError(AgentError):
    pass


class DatabaseError(AgentError):
    pass


class BusError(AgentError):
    pass


class BatchError(AgentError):
    pass


class SpoolError(AgentError):
    pass


class UplinkError(AgentError):
    pass


class TransientError(UplinkError):
    pass


class PermanentError(UplinkError):
    pass


class UnauthorisedError(UplinkError):
    pass


class UpdateError(AgentError):
    pass
