"""Packages for dpkg, as far as they can be judged without installing one (that: tests/vm)."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.ota import build_plan
from deb import control, site, tree
from deb.target import TARGETS, Target, debian_version

PROJECT = Path(__file__).parents[1]
DEBIAN, UBUNTU = (
    next(t for t in TARGETS if t.name == name) for name in ("deb12-amd64", "ubuntu24.04-arm64")
)


class TestVersions:
    @pytest.mark.parametrize(
        ("python", "dpkg"),
        [
            ("0.1.0", "0.1.0+deb12"),
            ("1.2.3rc1", "1.2.3~rc1+deb12"),
            ("1.2.3a4.dev5", "1.2.3~a4~~dev5+deb12"),
            ("1.2.3.post1", "1.2.3.post1+deb12"),
        ],
    )
    def test_a_version_of_python_becomes_one_of_dpkg(self, python: str, dpkg: str) -> None:
        assert debian_version(python, DEBIAN) == dpkg

    @pytest.mark.parametrize("version", ["", "1.0+local", "v1.0", "1!1.0", "1.0\nDepends: x"])
    def test_what_no_release_has_is_refused(self, version: str) -> None:
        with pytest.raises(ValueError, match="is no version"):
            debian_version(version, DEBIAN)


def fake(folder: Path, name: str, version: str, *more: str) -> None:
    """An installed distribution, as far as metadata goes."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *more]
    (info / "METADATA").write_text("\n".join(lines) + "\n", "utf-8")


class TestWhatItBrings:
    def test_markers_are_judged_for_the_vehicle_and_not_for_this_machine(
        self, tmp_path: Path
    ) -> None:
        fake(
            tmp_path,
            "one",
            "1",
            'Requires-Dist: old; python_version < "3.12"',
            'Requires-Dist: arm; platform_machine == "aarch64"',
            'Requires-Dist: windows; sys_platform == "win32"',
            'Requires-Dist: more; extra == "more"',
        )
        installed = site.distributions(tmp_path)

        assert site.closure(DEBIAN, installed, ["one"])[0] == ["old"]
        assert site.closure(UBUNTU, installed, ["one"])[0] == ["arm"]
        assert sorted(site.closure(UBUNTU, installed, ["one[more]"])[0]) == ["arm", "more"]

    def test_what_nothing_needs_is_found(self, tmp_path: Path) -> None:
        for name in ("one", "Two_2", "three"):
            fake(tmp_path, name, "1", *(["Requires-Dist: two-2>=1"] if name == "one" else []))

        missing, unneeded = site.closure(DEBIAN, site.distributions(tmp_path), ["one"])

        assert (missing, [d.name for d in unneeded]) == ([], ["three"])

    def test_only_what_runs_is_kept(self, tmp_path: Path) -> None:
        kept = ("numpy/_core/a.so", "one/code.py", "one/data.json", "one-1.dist-info/METADATA")
        gone = ("numpy/f2py/x.py", "one/tests/test.py", "one/a.pyx", "one-1.dist-info/RECORD")
        for name in (*kept, *gone):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(b"")

        site.prune(tmp_path)

        left = sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*") if f.is_file())
        assert left == sorted(kept)
        assert not (tmp_path / "one/tests").exists()

    def test_modules_for_another_system_are_found(self, tmp_path: Path) -> None:
        arm, amd = (bytes(18) + number.to_bytes(2, "little") for number in (183, 62))
        (tmp_path / "a.cpython-312-aarch64-linux-gnu.so").write_bytes(arm)
        (tmp_path / "a.cpython-311-aarch64-linux-gnu.so").write_bytes(arm)
        (tmp_path / "b.abi3.so").write_bytes(arm)
        (tmp_path / "b.so.5").write_bytes(amd)

        assert site.foreign(tmp_path, UBUNTU) == ["a.cpython-311-aarch64-linux-gnu.so", "b.so.5"]

    def test_each_licence_is_told(self, tmp_path: Path) -> None:
        fake(tmp_path, "one", "1", "License-Expression: MIT")
        fake(tmp_path, "two", "2", "License: BSD")
        fake(tmp_path, "three", "3", "Classifier: License :: OSI Approved :: ISC License (ISCL)")

        text = control.copyright_of(site.distributions(tmp_path).values())

        assert [
            line.strip() for line in text.splitlines() if line.startswith("  ") and ":" in line
        ] == [
            "one 1: MIT",
            "three 3: ISC License (ISCL)",
            "two 2: BSD",
        ]


def laid_out(folder: Path, target: Target = DEBIAN) -> Path:
    """The files of a package that brings nothing."""
    program = folder / "program/agent"
    program.mkdir(parents=True)
    for name in ("config", "dbc", "systemd"):
        shutil.copytree(PROJECT / name, program / "_data" / name)
    (folder / "site").mkdir()
    root = folder / "root"
    tree.lay_out(root, target, PROJECT, program.parent, folder / "site")
    return root


class TestFiles:
    def test_configuration_can_be_edited_and_is_kept(self, tmp_path: Path) -> None:
        assert tree.configuration(laid_out(tmp_path)) == [
            "/etc/edge-agent/agent.toml",
            "/etc/edge-agent/can/can0.conf.example",
            "/etc/edge-agent/plan-all.toml",
            "/etc/edge-agent/plan-ev.toml",
        ]

    def test_units_start_what_the_package_brings(self, tmp_path: Path) -> None:
        root = laid_out(tmp_path)
        started = {
            line.partition("=")[2].split()[0]
            for unit in (root / "usr/lib/systemd/system").glob("*.service")
            for line in unit.read_text("utf-8").splitlines()
            if line.startswith(("ExecStart=", "ExecStop=", "ExecReload="))
        }
        assert started
        assert all((root / path.lstrip("/")).is_file() for path in started), started

    def test_the_plan_names_a_database_that_the_package_brings(self, tmp_path: Path) -> None:
        root = laid_out(tmp_path)
        plan = (root / "etc/edge-agent/plan-ev.toml").read_text("utf-8")
        assert 'files = ["/usr/share/edge-agent/dbc/ev.dbc"]' in plan
        assert (root / "usr/share/edge-agent/dbc/ev.dbc").read_bytes()

    def test_the_other_plan_keeps_all_of_the_database_that_is_put_beside_it(
        self, tmp_path: Path
    ) -> None:
        folder = laid_out(tmp_path) / "etc/edge-agent"
        shutil.copy(PROJECT / "dbc/ev.dbc", folder / "car.dbc")
        plan = build_plan(folder / "plan-all.toml", buses=["powertrain"], uplinks=["cloud"])
        signals = [(m.name, s.name) for m in plan.database.buses["*"] for s in m.signals]
        (kept,) = ([(s.message, s.signal) for s in c.signals] for c in plan.campaigns)
        assert sorted(kept) == sorted(signals)

    @pytest.mark.parametrize("target", [DEBIAN, UBUNTU], ids=lambda t: t.name)
    def test_the_program_is_run_by_the_python_that_it_depends_on(
        self, tmp_path: Path, target: Target
    ) -> None:
        python = f"python{target.python}"
        launcher = (laid_out(tmp_path, target) / "usr/bin/edge-agent").read_text("utf-8")
        assert launcher.startswith(f"#!/usr/bin/{python} -IBS\n")
        assert f"python=/usr/bin/{python}\n" in tree.scripts(target)["postinst"].decode()
        fields = control.control(target, "1", "What it does.", 1, {})
        assert f"\nDepends: {python}, " in fields

    def test_control_is_what_dpkg_takes(self) -> None:
        environment = {"DEBFULLNAME": "A Person", "DEBEMAIL": "a@example.org"}
        lines = control.control(UBUNTU, "1.0+x", "It does this. " * 20, 7, environment).splitlines()
        fields = dict(line.split(": ", 1) for line in lines if not line.startswith(" "))
        assert fields["Maintainer"] == "A Person <a@example.org>"
        assert (fields["Architecture"], fields["Version"]) == ("arm64", "1.0+x")
        assert fields["Installed-Size"] == "7"
        assert max(map(len, lines[-6:])) <= 80

    @pytest.mark.parametrize("name", ["postinst", "prerm", "postrm", "can-bus"])
    def test_scripts_are_ones_of_a_posix_shell(self, tmp_path: Path, name: str) -> None:
        path = PROJECT / "systemd/can-bus"
        if name != "can-bus":
            path = tmp_path / name
            path.write_bytes(tree.scripts(DEBIAN)[name])
        done = subprocess.run(["sh", "-n", str(path)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


class TestSameBytes:
    def test_nothing_of_the_building_machine_is_left(self, tmp_path: Path) -> None:
        seen = []
        for name, umask in (("a", 0o022), ("b", 0o077)):
            before = os.umask(umask)
            try:
                root = laid_out(tmp_path / name)
                tree.set_modes_and_times(root, 1_700_000_000)
            finally:
                os.umask(before)
            seen.append(facts_of(root))
        assert seen[0] == seen[1]
        assert {mode for _, mode, _, _ in seen[0]} == {0o755, 0o644, 0o777}
        assert {when for _, _, when, _ in seen[0]} == {1_700_000_000}

    def test_checksums_are_those_of_what_is_not_configuration(self, tmp_path: Path) -> None:
        root = laid_out(tmp_path)
        names = [line.split("  ", 1)[1] for line in tree.checksums(root).splitlines()]
        assert "usr/bin/edge-agent" in names
        assert names == sorted(names)
        assert not [name for name in names if name.startswith("etc/")]


def facts_of(root: Path) -> Sequence[tuple[str, int, float, bytes]]:
    """Path, mode, time and content of everything below a folder."""
    return [
        (
            str(path.relative_to(root)),
            path.lstat().st_mode & 0o777,
            path.lstat().st_mtime,
            b"" if path.is_symlink() or path.is_dir() else path.read_bytes(),
        )
        for path in sorted(root.rglob("*"))
    ]


def test_a_target_that_does_not_exist_is_misuse() -> None:
    words = [sys.executable, "-m", "deb", "win95-amd64"]
    done = subprocess.run(words, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "there is no target win95-amd64; there is deb12-amd64" in done.stderr
