"""A bundle: what goes into it comes out of it, and what is not one is refused in words."""

import hashlib
import json
import os
import shutil
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.batch.format import zstd
from agent.errors import UpdateError
from agent.ota import archive, build_plan
from agent.ota.bundle import Audience, Bundle, Manifest, pack, read
from agent.ota.types import BundleId
from agent.settings import load_plan

CONFIG: Final = Path(__file__).resolve().parents[2] / "config"
PLANS: Final = sorted(CONFIG.glob("plan-*.toml"))

DBC: Final = """VERSION ""
BU_: ECU
BO_ 256 Motion: 8 ECU
 SG_ Speed : 0|16@1+ (0.01,0) [0|655.35] "km/h" ECU
"""
PLAN: Final = """version = 1
name = "test"
[[database]]
bus = "*"
files = ["../dbc/car.dbc"]
[[campaign]]
name = "all"
signals = ["Motion.*"]
"""


def laid_out(folder: Path, plan: str = PLAN, **files: str) -> Path:
    """`config/plan.toml` and `dbc/car.dbc`, and more; gives the plan."""
    everything = {"config/plan.toml": plan, "dbc/car.dbc": DBC, **files}
    for name, text in everything.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "config/plan.toml"


def naming(*entries: str) -> str:
    """A plan with these database files."""
    return PLAN.replace('["../dbc/car.dbc"]', json.dumps(entries, ensure_ascii=False))


def manifest(files: Mapping[str, bytes], /, **changes: Any) -> dict[str, Any]:
    return {
        "format": 1,
        "name": "test",
        "version": 1,
        "minimum_agent": "",
        "audience": {"groups": [], "vehicles": []},
        "plan": "config/plan.toml",
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        **changes,
    }


FILES: Final = {"config/plan.toml": PLAN.encode(), "dbc/car.dbc": DBC.encode()}


def archived(head: bytes, files: Mapping[str, bytes] = FILES) -> bytes:
    return archive.pack([("manifest.json", head), *sorted(files.items())])


def sealed(files: Mapping[str, bytes] = FILES, /, **changes: Any) -> bytes:
    """A bundle that was made by someone else."""
    return archived(json.dumps(manifest(files, **changes)).encode(), files)


def refusal(data: bytes) -> str:
    with pytest.raises(UpdateError) as caught:
        read(data)
    assert str(caught.value).startswith("the bundle is refused: ")
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.stem)
def test_the_plans_that_come_with_the_program_make_the_journey(plan: Path, tmp_path: Path) -> None:
    assert PLANS
    there = read(pack(plan, version=7)).extract(tmp_path)

    sent, received = load_plan(plan), load_plan(there)

    assert there.read_bytes() == plan.read_bytes()
    for before, after in zip(sent.database, received.database, strict=True):
        for mine, theirs in zip(before.files, after.files, strict=True):
            assert Path(theirs).resolve().is_relative_to(tmp_path.resolve())
            assert Path(theirs).read_bytes() == Path(mine).read_bytes()
        after.files = before.files
    assert received == sent
    buses = ["powertrain", "body"]
    uplinks = ["cloud"]
    built = build_plan(there, buses=buses, uplinks=uplinks)
    assert built.wanted == build_plan(plan, buses=buses, uplinks=uplinks).wanted


def test_what_is_said_of_a_bundle_is_in_it(tmp_path: Path) -> None:
    audience = Audience(groups=("ev",), vehicles=("car-*",))

    data = pack(
        laid_out(tmp_path), version=3, minimum_agent="0.1.0", audience=audience, name="winter"
    )
    bundle = read(data)

    digest = hashlib.sha256(data).hexdigest()
    assert bundle.manifest == Manifest(
        format=1,
        name="winter",
        version=3,
        minimum_agent="0.1.0",
        audience=audience,
        plan="config/plan.toml",
        files={name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()},
    )
    assert bundle.files == FILES
    assert bundle.sha256 == digest
    assert bundle.id == BundleId("winter", 3, digest)
    assert bundle.title == "winter 3"


def test_a_bundle_is_called_like_its_plan(tmp_path: Path) -> None:
    assert read(pack(laid_out(tmp_path), version=1)).title == "test 1"


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    plan = laid_out(tmp_path / "a", naming("../dbc/car.dbc", "b.dbc"), **{"config/b.dbc": DBC})
    first = pack(plan, version=1)
    assert pack(plan, version=1) == first

    # Elsewhere, made in another order, at another time, with other rights, beside other files.
    other = tmp_path / "somewhere/else"
    (other / "dbc").mkdir(parents=True)
    shutil.copy(tmp_path / "a/dbc/car.dbc", other / "dbc")
    laid_out(other, plan.read_text(), **{"config/b.dbc": DBC, "dbc/unused.dbc": DBC})
    for path in other.rglob("*.*"):
        os.utime(path, (1, 1))
        path.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(other / "dbc/car.dbc", 1234, 1234)

    assert pack(other / "config/plan.toml", version=1) == first


def test_the_form_of_a_bundle_never_changes(tmp_path: Path) -> None:
    # The tar, because another version of zstd may pack the same bytes better.
    tar = zstd.decompress(pack(laid_out(tmp_path), version=1))

    assert hashlib.sha256(tar).hexdigest() == (
        "1c528781e0907506197bcfdbc9f81cdb4eaa8a53bd0fae24594cbf8fb9922f4f"
    )


def test_a_bundle_that_someone_else_made_is_read() -> None:
    assert read(sealed()).files == FILES


@pytest.mark.parametrize(
    ("entry", "place", "inside"),
    [
        ("car.dbc", "config/car.dbc", {"plan.toml", "car.dbc"}),
        ("./car.dbc", "config/car.dbc", {"plan.toml", "car.dbc"}),
        ("a/./b//car.dbc", "config/a/b/car.dbc", {"plan.toml", "a/b/car.dbc"}),
        ("../config/car.dbc", "config/car.dbc", {"config/plan.toml", "config/car.dbc"}),
        ("../../car.dbc", "../car.dbc", {"project/config/plan.toml", "car.dbc"}),
        ("../größe 2.dbc", "größe 2.dbc", {"config/plan.toml", "größe 2.dbc"}),
        ("a~/~b.dbc", "config/a~/~b.dbc", {"plan.toml", "a~/~b.dbc"}),
    ],
)
def test_files_keep_their_places(tmp_path: Path, entry: str, place: str, inside: set[str]) -> None:
    plan = laid_out(tmp_path / "project", naming(entry), **{place: DBC})

    bundle = read(pack(plan, version=1))

    assert set(bundle.files) == inside
    there = load_plan(bundle.extract(tmp_path / "vehicle"))
    assert Path(there.database[0].files[0]).read_text() == DBC


def test_a_file_that_is_named_twice_is_in_it_once(tmp_path: Path) -> None:
    plan = laid_out(tmp_path, naming("../dbc/car.dbc", "../dbc/./car.dbc"))

    assert set(read(pack(plan, version=1)).files) == set(FILES)


def test_a_plan_without_database_files(tmp_path: Path) -> None:
    plan = tmp_path / "raw.toml"
    plan.write_text(
        'version = 1\nname = "raw"\ndatabase = []\n[[campaign]]\nname = "a"\nframes = [{bus = "*"}]'
    )

    assert set(read(pack(plan, version=1)).files) == {"raw.toml"}


def test_a_plan_in_a_linked_folder_takes_the_files_that_the_system_would(tmp_path: Path) -> None:
    laid_out(tmp_path / "real")
    (tmp_path / "dbc").mkdir()
    (tmp_path / "dbc/car.dbc").write_text("not this one")
    (tmp_path / "config").symlink_to(tmp_path / "real/config")

    assert read(pack(tmp_path / "config/plan.toml", version=1)).files == FILES


def test_a_plan_beside_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(laid_out(tmp_path).parent)

    assert read(pack(Path("plan.toml"), version=1)).files == FILES


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("/etc/car.dbc", 'the database file "/etc/car.dbc" is absolute'),
        ("//etc/car.dbc", "is absolute"),
        ("~/car.dbc", "does not name a database file beside the plan"),
        ("./~root/car.dbc", "does not name a database file beside the plan"),
        ("", "does not name a database file beside the plan"),
        (".", "does not name a database file beside the plan"),
        ("..", "does not name a database file beside the plan"),
        ("../dbc/../dbc/car.dbc", "climbs after it went down"),
        ("../../../../../car.dbc", "lies too far from the plan"),
        ("../" * 300 + "car.dbc", "lies too far from the plan"),
        ("missing.dbc", 'the file "missing.dbc" cannot be read: No such file'),
        ("../dbc", "is no file"),
        ("pipe.dbc", "is no file"),
        ("car\0.dbc", "cannot be read"),
        ("new\nline.dbc", "has characters that cannot be shown"),
        ("a" * 101, "is too long"),
    ],
)
def test_a_database_file_that_cannot_be_packed(tmp_path: Path, entry: str, why: str) -> None:
    plan = laid_out(tmp_path, naming(entry))
    os.mkfifo(tmp_path / "config/pipe.dbc")
    for name in ("new\nline.dbc", "a" * 101):
        (tmp_path / "config" / name).write_text(DBC)

    with pytest.raises(UpdateError) as caught:
        pack(plan, version=1)

    assert why in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_plan_that_does_not_load_is_named_with_file_line_and_key(tmp_path: Path) -> None:
    plan = laid_out(tmp_path, PLAN.replace("signals", "signal"))

    with pytest.raises(UpdateError) as caught:
        pack(plan, version=1)

    assert f'{plan}:8: unknown key "signal"' in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "version = ", "x = " + "[" * 5000, "x = " + "1" * 5000, '{"version": 1}']
)
def test_a_plan_that_is_none_is_not_packed(tmp_path: Path, text: str) -> None:
    plan = laid_out(tmp_path, text)

    with pytest.raises(UpdateError, match=str(plan)):
        pack(plan, version=1)


@pytest.mark.parametrize("what", [{"version": 0}, {"name": "e v"}, {"minimum_agent": "new"}])
def test_a_bundle_is_not_called_anything(tmp_path: Path, what: Any) -> None:
    with pytest.raises(UpdateError, match=next(iter(what))):
        pack(laid_out(tmp_path), **{"version": 1, **what})


def test_names_that_are_no_text_are_not_packed(tmp_path: Path) -> None:
    plan = laid_out(tmp_path)
    latin = plan.rename(plan.with_name(os.fsdecode(b"\xfcber.toml")))

    with pytest.raises(UpdateError, match="has characters that cannot be shown"):
        pack(latin, version=1)
    for what in ({"name": "\udcfc"}, {"audience": Audience(groups=("\udcfc",))}):
        with pytest.raises(UpdateError, match="is no text"):
            pack(laid_out(tmp_path), version=1, **what)


def test_a_file_called_like_the_manifest_is_not_packed(tmp_path: Path) -> None:
    plan = laid_out(tmp_path, naming("manifest.json"), **{"config/manifest.json": DBC})

    with pytest.raises(UpdateError, match="rename this file"):
        pack(plan, version=1)


def test_a_plan_with_too_many_files_is_not_packed(tmp_path: Path) -> None:
    names = [f"{i}.dbc" for i in range(200)]
    plan = laid_out(tmp_path, naming(*names), **{f"config/{name}": DBC for name in names})

    with pytest.raises(UpdateError, match="more than 200 files"):
        pack(plan, version=1)


def test_a_file_that_is_too_large_is_not_packed(tmp_path: Path) -> None:
    plan = laid_out(tmp_path, naming("large.dbc"))
    with (tmp_path / "config/large.dbc").open("wb") as file:
        file.truncate((64 << 20) + 1)

    with pytest.raises(UpdateError, match="may have 67108864"):
        pack(plan, version=1)


# What comes in.


def test_a_file_that_is_not_in_the_manifest() -> None:
    head = json.dumps(manifest(FILES)).encode()

    assert '"run.sh" is in it, and not in its manifest' in refusal(
        archived(head, {**FILES, "run.sh": b"rm -rf /"})
    )


def test_a_file_that_is_missing() -> None:
    head = json.dumps(manifest(FILES)).encode()

    assert '"dbc/car.dbc" is in its manifest, and not in it' in refusal(
        archived(head, {"config/plan.toml": PLAN.encode()})
    )


def test_a_file_with_another_content() -> None:
    head = json.dumps(manifest(FILES)).encode()

    assert '"dbc/car.dbc" has another SHA-256' in refusal(
        archived(head, {**FILES, "dbc/car.dbc": DBC.replace("0.01", "0.02").encode()})
    )


def test_a_file_that_the_plan_does_not_name() -> None:
    assert '"run.sh" is in it, and the plan does not name it' in refusal(
        sealed({**FILES, "run.sh": b"rm -rf /"})
    )


def test_a_file_that_is_a_folder_too() -> None:
    files = {**FILES, "dbc": b""}

    assert '"dbc" is a file and a folder' in refusal(sealed(files))


def test_a_bundle_without_a_manifest() -> None:
    assert "does not begin with manifest.json" in refusal(archive.pack(sorted(FILES.items())))


def test_an_empty_archive() -> None:
    assert "does not begin with manifest.json" in refusal(archive.pack([]))


@pytest.mark.parametrize("number", [0, 2, -1, 10**30])
def test_another_format(number: int) -> None:
    said = refusal(sealed(format=number, novelty=[1]))

    assert "format" in said
    if number == 2:
        assert "it has format 2, and this agent reads format 1; update the agent" in said


@pytest.mark.parametrize(
    "changes",
    [
        {"novelty": 1},
        {"format": "1"},
        {"format": True},
        {"format": None},
        {"name": "../ev"},
        {"name": 7},
        {"name": "\ud800"},
        {"version": 0},
        {"version": 1.5},
        {"version": 10**10},
        {"minimum_agent": "1.x"},
        {"minimum_agent": "٣"},
        {"audience": {"groups": [], "vehicles": [], "except": ["car-1"]}},
        {"audience": "all"},
        {"plan": "plan.toml"},
        {"plan": ""},
        {"plan": 1},
        {"files": []},
        {"files": {}},
        {"files": {"config/plan.toml": "x"}},
        {"files": {f"{i}": "0" * 64 for i in range(201)}},
    ],
)
def test_a_manifest_that_cannot_be_used(changes: Mapping[str, Any]) -> None:
    refusal(sealed(**changes))


@pytest.mark.parametrize("key", ["format", "name", "version", "minimum_agent", "audience", "plan"])
def test_a_manifest_with_a_key_missing(key: str) -> None:
    head = {name: value for name, value in manifest(FILES).items() if name != key}

    assert f"missing required field `{key}`" in refusal(archived(json.dumps(head).encode()))


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        b'{"format": 1, "x": ' + b"[" * 100_000,
        b'{"format": 1}' + b" " * (1 << 18),
        b'{"format": ' + b"9" * 10_000 + b"}",
    ],
)
def test_a_manifest_that_is_none(head: bytes) -> None:
    refusal(archived(head))


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ("../../car.dbc", "lies outside of the bundle"),
        ("../" * 5000 + "etc/passwd", "lies outside of the bundle"),
        ("/etc/passwd", "is absolute"),
        ("~/.ssh/id_rsa", "does not name a database file"),
        ("./~/car.dbc", "does not name a database file"),
        ("../dbc/../dbc/car.dbc", "climbs after it went down"),
        ("car.dbc", "is not in the bundle"),
        ("../dbc", "is not in the bundle"),
        ("../dbc/car.dbc\0", "is not in the bundle"),
        ("../manifest.json", "is not in the bundle"),
    ],
)
def test_a_plan_that_names_a_file_outside(entry: str, why: str) -> None:
    plan = naming("../dbc/car.dbc", entry).encode()

    assert why in refusal(sealed({**FILES, "config/plan.toml": plan}))


@pytest.mark.parametrize(
    "plan",
    [
        b"",
        b"\xff\xfe",
        b"database = 1",
        b"database = [1]",
        b"database = [{files = []}]",
        b"database = [{files = [1]}]",
        b"database = " + b"[" * 100_000,
        b"database = " + b"{a = " * 100_000,
        b"x = " + b"1" * 100_000,
        b"a." * 100_000 + b"a = 1",
        b'\'a\' . "\\"" .' * 50_000 + b"a = 1",
        b"[" + b"a." * 20_000 + b"a]\n" + b"k = 1\n" * 10_000,
        PLAN.encode() + b"#" * (1 << 20),
    ],
)
def test_a_plan_that_cannot_be_read(plan: bytes) -> None:
    # Some of these would take minutes, if nothing bounded them.
    assert '"config/plan.toml": ' in refusal(sealed({**FILES, "config/plan.toml": plan}))


def test_all_of_a_large_bundle_is_held_once() -> None:
    files = {**FILES, "dbc/car.dbc": bytes(60 << 20)}
    data = sealed(files)
    del files

    tracemalloc.start()
    try:
        bundle = read(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert len(bundle.files["dbc/car.dbc"]) == 60 << 20
    assert peak < 1.25 * (60 << 20)


# The working copy.


@pytest.fixture
def bundle() -> Bundle:
    return read(sealed())


def content_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_working_copy_holds_what_the_bundle_does(bundle: Bundle, tmp_path: Path) -> None:
    plan = bundle.extract(tmp_path / "state/ota/work")

    assert plan == tmp_path / "state/ota/work/config/plan.toml"
    assert content_of(tmp_path / "state/ota/work") == FILES


def test_what_is_there_already_stays(bundle: Bundle, tmp_path: Path) -> None:
    bundle.extract(tmp_path)
    before = (tmp_path / "dbc/car.dbc").stat()
    (tmp_path / "config/plan.toml").write_text(PLAN[:100])  # the power was cut while it was written

    bundle.extract(tmp_path)

    after = (tmp_path / "dbc/car.dbc").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert content_of(tmp_path) == FILES


def test_everything_else_goes(bundle: Bundle, tmp_path: Path) -> None:
    old = read(sealed({**FILES, "dbc/old/a.dbc": b"", "config/plan.toml": OLD.encode()}))
    old.extract(tmp_path)
    (tmp_path / "dbc/empty").mkdir()
    (tmp_path / "dbc/car.dbc~").touch()
    os.mkfifo(tmp_path / "pipe")

    bundle.extract(tmp_path)

    assert content_of(tmp_path) == FILES
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "car.dbc",
        "config",
        "dbc",
        "plan.toml",
    ]


OLD: Final = naming("../dbc/car.dbc", "../dbc/old/a.dbc")


def test_folders_and_files_take_the_place_of_one_another(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "config/plan.toml/deep").mkdir(parents=True)
    (tmp_path / "config/plan.toml/deep/file").touch()
    (tmp_path / "dbc").write_text("no folder")

    bundle.extract(tmp_path)

    assert content_of(tmp_path) == FILES


def test_no_link_is_followed(bundle: Bundle, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "car.dbc").write_text("mine")
    (outside / "same.toml").write_text(PLAN)
    work = tmp_path / "work"
    (work / "config").mkdir(parents=True)
    (work / "dbc").symlink_to(outside)
    (work / "config/plan.toml").symlink_to(outside / "same.toml")
    (work / "config/nowhere").symlink_to(outside / "missing")

    bundle.extract(work)

    assert content_of(work) == FILES
    assert not any(path.is_symlink() for path in work.rglob("*"))
    assert content_of(outside) == {"car.dbc": b"mine", "same.toml": PLAN.encode()}


def test_a_hard_link_is_not_written_through(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    work = tmp_path / "work"
    (work / "dbc").mkdir(parents=True)
    (work / "dbc/car.dbc").hardlink_to(tmp_path / "mine")

    bundle.extract(work)

    assert (tmp_path / "mine").read_text() == "mine"
    assert content_of(work) == FILES


def test_a_working_copy_where_there_can_be_none(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(UpdateError, match=r"file/work: bundle test 1 cannot be unpacked here"):
        bundle.extract(tmp_path / "file/work")


# Whatever comes in.


def read_or_refused(data: bytes) -> None:
    try:
        bundle = read(data)
    except UpdateError:
        return
    # What it holds together is sound: every file is known, and the plan has its place.
    assert bundle.manifest.files.keys() == bundle.files.keys()
    assert bundle.manifest.plan in bundle.files


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=4000))
def test_random_bytes(data: bytes) -> None:
    with pytest.raises(UpdateError):
        read(data)


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*(field.name for field in msgspec.structs.fields(Manifest)), "novelty"]),
        json_values,
        max_size=3,
    )
)
def test_random_manifests(changes: Mapping[str, Any]) -> None:
    read_or_refused(sealed(**changes))


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
def test_random_plans(plan: bytes) -> None:
    read_or_refused(sealed({**FILES, "config/plan.toml": plan}))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(["..", ".", "", "~", "~root", "dbc", "config", "car.dbc", "a\0"])))
@example(["..", "dbc", "car.dbc"])
def test_no_name_of_a_database_file_leads_out_of_the_working_copy(parts: list[str]) -> None:
    plan = naming("../dbc/car.dbc", "/".join(parts)).encode()
    try:
        bundle = read(sealed({**FILES, "config/plan.toml": plan}))
    except UpdateError:
        return
    files = {"car.dbc", "dbc", "config", "plan.toml"}
    assert (Path("/w/config") / "/".join(parts)).name in files
    assert os.path.normpath("/w/config/" + "/".join(parts)) in {
        f"/w/{name}" for name in bundle.files
    }


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_bundle_is_refused_or_the_same(data: st.DataObject) -> None:
    whole = bytearray(sealed())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole)))
        length = data.draw(st.integers(0, 3))
        whole[at : at + length] = data.draw(st.binary(max_size=4))
    try:
        found = read(bytes(whole))
    except UpdateError:
        return
    assert found.files == FILES
