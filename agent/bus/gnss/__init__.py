"""Position, speed, heading and time of a GNSS receiver, as signals like any others.

    bytes -> NmeaParser or GpsdParser -> epochs -> one row each of Position, Satellites, Time
                                              +-> dating -> clock anchors

- `nmea` and `gpsd` read bytes in any pieces; a bad line costs itself and is counted. Neither does
  any input or output, so they can be fed by anything.
- `epochs` joins all that a receiver says of one moment. A row is dated with the read that brought
  the first byte of the epoch: of its first sentence that tells the time. It is delivered when the
  epoch is complete, which is at the next one or after a silence of 0.2 s.
- `tables` fixes signals and units. What is not known is "not available", never 0.
- `dating` decides which of the receiver's times are believed.
- `source` is the thread around them: a port or a connection that comes and goes.

Here a loop per sentence is allowed: a receiver sends some ten of them a second.
"""

from agent.bus.gnss.source import GnssSource
from agent.bus.gnss.tables import schemas

__all__ = ["GnssSource", "schemas"]
