"""Telling how it is: the status socket, systemd, and sentences for people.

The socket answers JSON: a line `{"cmd": "status"}` gets one line back. Only members of the agent's
group may connect. Nothing here changes anything, and no secret is shown.
"""
