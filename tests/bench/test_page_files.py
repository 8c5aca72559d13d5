"""The files of the page, as the cloud serves them; what a browser makes of them: tests/system."""

import base64
import hashlib
import re
from pathlib import Path

import pytest

import agent.bench.cloud
from agent.bench.cloud import Store
from tests.bench.cloudbench import cloud

WEB = Path(agent.bench.cloud.__file__).parent / "web"
UPLOT = WEB / "vendor/uplot"
OF_THE_VERSION = {
    "LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    "uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}
"""SHA-256 of the files of uPlot 1.6.32 in its package."""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/static/app.js", "text/javascript; charset=utf-8"),
        ("/static/style.css", "text/css; charset=utf-8"),
        ("/static/icon.svg", "image/svg+xml"),
        ("/static/vendor/uplot/uPlot.iife.min.js", "text/javascript; charset=utf-8"),
    ],
)
def test_a_file_has_its_type_and_the_policy_that_lets_nobody_else_in(
    tmp_path: Path, path: str, kind: str
) -> None:
    with cloud(Store(tmp_path)) as client:
        answer = client.ask("GET", path)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == kind
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_browser_that_has_a_file_is_told_so_and_asks_each_time(tmp_path: Path) -> None:
    with cloud(Store(tmp_path)) as client:
        first = client.ask("GET", "/static/app.js")
        tag = first.headers["Etag"]
        again = client.ask("GET", "/static/app.js", headers={"If-None-Match": f'"x", {tag}'})
        other = client.ask("GET", "/static/app.js", headers={"If-None-Match": '"x"'})
    assert first.headers["Cache-Control"] == "no-cache"
    assert (again.status, again.body, again.headers["Etag"]) == (304, b"", tag)
    assert (other.status, other.body) == (200, first.body)


@pytest.mark.parametrize(
    "path",
    [
        "/static/../static.py",
        "/static/%2e%2e/static.py",
        "/static/..%2fstatic.py",
        "/static//etc/passwd",
        "/static/vendor",
        "/static/vendor/uplot/LICENSE",
        "/static/",
    ],
)
def test_nothing_but_the_files_of_the_page_is_served(tmp_path: Path, path: str) -> None:
    with cloud(Store(tmp_path)) as client:
        assert client.ask("GET", path).status == 404


def test_everything_that_the_page_names_is_there_and_from_here() -> None:
    """What a module imports and the document loads: no file is forgotten."""
    scripts = sorted(WEB.glob("*.js"))
    assert len(scripts) > 5
    for script in scripts:
        for name in re.findall(r'from "(.+?)"', script.read_text("utf-8")):
            assert name.startswith("./"), (script, name)
            assert (WEB / name).is_file(), (script, name)
    document = (WEB / "index.html").read_text("utf-8")
    for name in re.findall(r'(?:src|href)="(/static/.+?)"', document):
        assert (WEB / name.removeprefix("/static/")).is_file(), name


def test_no_module_makes_markup_of_texts() -> None:
    """Names of vehicles and signals come from outside: they become text, never elements."""
    for script in WEB.glob("*.js"):
        text = script.read_text("utf-8")
        for door in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert door not in text, (script, door)


def test_uplot_is_what_its_authors_published() -> None:
    found = {
        f.name: hashlib.sha256(f.read_bytes()).hexdigest()
        for f in UPLOT.iterdir()
        if f.suffix != ".md"
    }
    assert found == OF_THE_VERSION
    note = (UPLOT / "VERSION.md").read_text("utf-8")
    (integrity,) = re.findall(r"sha512-(\S+)", note)
    assert len(base64.b64decode(integrity)) == 64
    version = b"(v1.6.32)"
    assert version in (UPLOT / "uPlot.iife.min.js").read_bytes()
    assert "1.6.32" in note
