"""The packages for Debian and Ubuntu: `python -m deb`, or `make deb`.

    wheel of this checkout ─┐
    wheels of what it needs ├─▶ a folder as it will lie on the vehicle ─▶ dpkg-deb ─▶ dist/*.deb
    units, rules, scripts  ─┘

One package for each distribution and architecture, because it brings compiled modules for exactly
one Python: that of the distribution, which it depends on by its number (`python3.11`). So a vehicle
needs no network but for this one file, nothing of pip's, and no other program of the system can
change what the agent is made of; and when the distribution is upgraded, the old Python stays as
long as the agent needs it.

    /usr/bin/edge-agent                 starts that Python, isolated: its own site, no environment
    /usr/lib/edge-agent/python          the agent and what it needs
    /usr/lib/edge-agent/can-bus         sets up a CAN interface
    /usr/lib/{systemd,udev,sysctl.d}    units, rules, limits
    /usr/share/edge-agent               examples and units, as in the checkout
    /etc/edge-agent                     configuration, kept by dpkg as it was edited

It is no virtual environment: that would hold the absolute path of an interpreter twice, a copy of
its start-up files, and pip. Byte code is made when the package is installed, by the Python that
will read it, and removed before each change; so packages for a Python that the building machine
does not have are possible, and they are smaller.

The same commit gives the same bytes: versions come from constraints.txt, times from the commit,
owners and modes are set, and nothing in the package depends on the machine that built it.
"""
