"""What a package says about itself: its control file, and whose work is in it."""

import os
import textwrap
from collections.abc import Iterable, Mapping
from typing import Final

from deb.site import Distribution
from deb.target import Target
from deb.tree import CODE, PACKAGE

_MAINTAINER: Final = ("Vehicle edge agent maintainers", "vehicle-edge-agent@localhost")

# What compiled modules in wheels for manylinux_2_28 may take from the system (PEP 600), as far as
# ours do; the Python by its number, for they are made for no other.
_LIBRARIES: Final = ("libc6 (>= 2.28)", "libgcc-s1", "libstdc++6", "zlib1g")
_PROGRAMS: Final = ("ca-certificates", "iproute2", "systemd (>= 252)", "udev")


def control(
    target: Target,
    version: str,
    summary: str,
    installed_kib: int,
    environment: Mapping[str, str] = os.environ,
) -> str:
    """DEBIAN/control.

    Args:
        target: the system.
        version: as dpkg wants it.
        summary: one sentence.
        installed_kib: what it takes there.
        environment: DEBFULLNAME and DEBEMAIL name who answers for the package.
    """
    name = environment.get("DEBFULLNAME", _MAINTAINER[0])
    address = environment.get("DEBEMAIL", _MAINTAINER[1])
    needs = [f"python{target.python}", *_LIBRARIES, *_PROGRAMS]
    return (
        f"Package: {PACKAGE}\n"
        f"Version: {version}\n"
        f"Architecture: {target.architecture}\n"
        f"Maintainer: {name} <{address}>\n"
        "Section: net\n"
        "Priority: optional\n"
        f"Installed-Size: {installed_kib}\n"
        f"Depends: {', '.join(needs)}\n"
        "Suggests: can-utils\n"
        "Description: reads, keeps and uploads what a vehicle says on its CAN buses\n"
        f"{_paragraph(summary)}"
        " .\n"
        f"{_paragraph(_BRINGS)}"
    )


def copyright_of(distributions: Iterable[Distribution]) -> str:
    """The file `copyright`: this project's licence, and that of each part that it brings."""
    parts = [
        f"  {part.name} {part.version}: {part.licence}\n    /{CODE}/{part.folder.name}\n"
        for part in distributions
    ]
    return _OURS + "".join(parts)


_OURS: Final = """\
The vehicle edge agent is by its authors, and licensed under the Apache License, version 2.0; on
Debian systems its text is in /usr/share/common-licenses/Apache-2.0.

It brings these Python packages, which are by their authors. What each says about its licence, and
the folder in which its notices and texts are:

"""

_BRINGS: Final = (
    "It brings the Python packages that it needs, and takes none from the system but the "
    "interpreter. It is not started before it is set up: see /etc/edge-agent."
)


def _paragraph(text: str) -> str:
    return (
        textwrap.fill(text, 76, initial_indent=" ", subsequent_indent=" ", break_on_hyphens=False)
        + "\n"
    )
