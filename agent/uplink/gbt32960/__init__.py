"""The vehicle's side of GB/T 32960.3: reports to a platform over one TCP connection.

session.py     what is sent and when, as a pure state machine; its parts:
  session_types.py       events and actions
  session_settings.py    how it behaves, of the device file
  session_parameters.py  what a platform may ask and set
  session_reports.py     reports, from going out to their fate
  session_window.py      how many reissues are under way, and which one breaks the link
  session_core.py        time and timers
link.py        the driver: carries out what the session wants; stands beside the other senders
connection.py  TCP and TLS, frames in and out
speaker.py     what is sent, and what the log says
frames.py      events and actions of the session as frames
feed.py        what the session gets to send
reissue.py     batches of the spool as reports that wait to be confirmed
rows.py        one report, and how it is known again
dates.py       boot times as wall time
card.py        the number of the SIM card
channel.py     the link of the moment, and the work that ends with it
tally.py       what is counted and shown
state.py       what is kept over restarts
sign.py        signatures of 2025, by a command
"""
