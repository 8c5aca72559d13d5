"""For which systems there are packages."""

import dataclasses
import re
from typing import Final

from packaging.markers import default_environment
from packaging.requirements import Requirement


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """A distribution on an architecture.

    Args:
        distribution: as versions of packages name it, such as `deb12`.
        python: its Python, such as `3.11`.
        architecture: as dpkg calls it.
        machine: the same as wheels and kernels call it.
        elf_machine: the same in the header of an ELF file (elf.h: e_machine).
    """

    distribution: str
    python: str
    architecture: str
    machine: str
    elf_machine: int

    @property
    def name(self) -> str:
        return f"{self.distribution}-{self.architecture}"

    @property
    def abi(self) -> str:
        """The Python as wheels and compiled modules call it, such as `cp311`."""
        return f"cp{self.python.replace('.', '')}"

    @property
    def platforms(self) -> tuple[str, ...]:
        """The platforms of wheels that run here: by the age of their C library (PEP 600)."""
        newest = 28  # glibc 2.28; both distributions have a newer one
        names = [f"manylinux_2_{minor}_{self.machine}" for minor in range(newest, 16, -1)]
        return (*names, f"manylinux2014_{self.machine}")

    @property
    def pip_options(self) -> list[str]:
        """What tells pip to install for this system in place of its own."""
        words = ["--implementation", "cp", "--python-version", self.python, "--abi", self.abi]
        words += ["--abi", "abi3", "--abi", "none", "--only-binary", ":all:"]
        for platform in self.platforms:
            words += ["--platform", platform]
        return words

    def wants(self, requirement: Requirement, extra: str = "") -> bool:
        """Whether a requirement counts here, by its marker."""
        if requirement.marker is None:
            return True
        environment: dict[str, str] = {
            **{key: str(value) for key, value in default_environment().items()},
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
            "extra": extra,
        }
        return requirement.marker.evaluate(environment)


_DISTRIBUTIONS: Final = (("deb12", "3.11"), ("ubuntu24.04", "3.12"))
_ARCHITECTURES: Final = (("amd64", "x86_64", 62), ("arm64", "aarch64", 183))

TARGETS: Final = tuple(
    Target(distribution, python, *architecture)
    for distribution, python in _DISTRIBUTIONS
    for architecture in _ARCHITECTURES
)

_PEP_440: Final = re.compile(
    r"(?P<release>\d+(\.\d+)*)((?P<kind>a|b|rc)(?P<number>\d+))?"
    r"(\.post(?P<post>\d+))?(\.dev(?P<dev>\d+))?"
)


def debian_version(version: str, target: Target) -> str:
    """A version of Python as one of dpkg: what comes before a release sorts before it (`~`).

    Raises:
        ValueError: it is none that a release has.
    """
    match = _PEP_440.fullmatch(version)
    if match is None:
        raise ValueError(f"{version} is no version that a package can have")
    words = match["release"]
    if match["kind"]:
        words += f"~{match['kind']}{match['number']}"
    if match["post"]:
        words += f".post{match['post']}"
    if match["dev"]:
        words += f"~~dev{match['dev']}"
    return f"{words}+{target.distribution}"
