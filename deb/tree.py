"""The files of a package, as they will lie on the vehicle."""

import gzip
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from deb.target import Target

PACKAGE: Final = "vehicle-edge-agent"
CODE: Final = "usr/lib/edge-agent/python"
CONFIGURATION: Final = "etc/edge-agent"

_FILES: Final = Path(__file__).parent / "files"
_SCRIPTS: Final = ("postinst", "prerm", "postrm")
_SYSTEM: Final = {
    "edge-agent.service": "usr/lib/systemd/system/edge-agent.service",
    "can-bus@.service": "usr/lib/systemd/system/can-bus@.service",
    "can-bus": "usr/lib/edge-agent/can-bus",
    "90-edge-agent.rules": "usr/lib/udev/rules.d/90-edge-agent.rules",
    "60-edge-agent.conf": "usr/lib/sysctl.d/60-edge-agent.conf",
    "can0.conf.example": f"{CONFIGURATION}/can/can0.conf.example",
}
"""Where files of systemd/ go."""
_RUN: Final = {"usr/bin/edge-agent", "usr/lib/edge-agent/can-bus"}
_DATABASE: Final = '"../dbc/ev.dbc"'


def lay_out(root: Path, target: Target, project: Path, program: Path, site: Path) -> None:
    """Put everything but DEBIAN/ into a folder.

    Args:
        root: the folder, which stands for the vehicle's `/`.
        target: the system that it is for.
        project: the checkout.
        program: the installed wheel of the agent.
        site: what it needs, for this target.
    """
    code = root / CODE
    shutil.copytree(site, code)
    shutil.copytree(program, code, dirs_exist_ok=True)
    data = code / "agent/_data"
    for name, place in _SYSTEM.items():
        _put(root / place, (data / "systemd" / name).read_bytes())
    _put(root / "usr/bin/edge-agent", _for(target, "edge-agent"))
    examples = root / "usr/share/edge-agent"
    examples.parent.mkdir(parents=True)
    examples.symlink_to(Path("..") / data.relative_to(root / "usr"))
    _put(root / CONFIGURATION / "agent.toml", (data / "config/agent.toml").read_bytes())
    _put(root / CONFIGURATION / "plan-ev.toml", _plan(data / "config/plan-ev.toml"))
    _put(root / CONFIGURATION / "plan-all.toml", (_FILES / "plan-all.toml").read_bytes())
    documents = root / "usr/share/doc" / PACKAGE
    for document in [project / "README.md", *sorted((project / "docs").glob("*.md"))]:
        _put(documents / document.name, document.read_bytes())
    _put(documents / "changelog.gz", zipped((project / "CHANGELOG.md").read_bytes()))
    _put(
        root / "usr/share/man/man1/edge-agent.1.gz", zipped((_FILES / "edge-agent.1").read_bytes())
    )


def scripts(target: Target) -> Mapping[str, bytes]:
    """What dpkg runs before and after."""
    return {name: _for(target, name) for name in _SCRIPTS}


def configuration(root: Path) -> list[str]:
    """The files that dpkg keeps as they were edited."""
    return [f"/{f.relative_to(root)}" for f in files(root / "etc")]


def checksums(root: Path) -> str:
    """DEBIAN/md5sums, as `dpkg --verify` wants it."""
    lines = [
        f"{hashlib.md5(f.read_bytes(), usedforsecurity=False).hexdigest()}  {f.relative_to(root)}\n"
        for f in files(root)
        if not f.is_symlink() and f.relative_to(root).parts[0] not in ("DEBIAN", "etc")
    ]
    return "".join(lines)


def installed_kib(root: Path) -> int:
    """What it takes on the vehicle, without byte code: a KiB at least for each file and folder."""
    return sum(
        max(1, -(-f.lstat().st_size // 1024)) if f.is_file() and not f.is_symlink() else 1
        for f in root.rglob("*")
        if "DEBIAN" not in f.parts
    )


def files(folder: Path) -> Iterator[Path]:
    """Files and links below a folder, in order."""
    yield from sorted(f for f in folder.rglob("*") if f.is_symlink() or f.is_file())


def set_modes_and_times(root: Path, epoch: int) -> None:
    """The same for everybody who builds: modes without a umask, and one time for all."""
    for path in sorted(root.rglob("*"), reverse=True):
        if not path.is_symlink():
            name = str(path.relative_to(root))
            script = path.parent.name == "DEBIAN" and path.name in _SCRIPTS
            path.chmod(0o755 if path.is_dir() or name in _RUN or script else 0o644)
        os.utime(path, (epoch, epoch), follow_symlinks=False)
    root.chmod(0o755)
    os.utime(root, (epoch, epoch))


def zipped(data: bytes) -> bytes:
    """Compressed, without a name and a time."""
    return gzip.compress(data, 9, mtime=0)


def _plan(path: Path) -> bytes:
    """The example's plan; its database lies elsewhere than in the checkout."""
    text = path.read_text("utf-8")
    if text.count(_DATABASE) != 1:
        raise ValueError(f"{path} does not name {_DATABASE} once")
    return text.replace(_DATABASE, '"/usr/share/edge-agent/dbc/ev.dbc"').encode()


def _for(target: Target, name: str) -> bytes:
    return (_FILES / name).read_text("utf-8").replace("@PYTHON@", f"python{target.python}").encode()


def _put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
