"""Secrets are taken out of text, and the rest stays."""

import tomllib
from collections.abc import Mapping
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.observe.scrub import REMOVED, Scrubber, is_secret

CONFIG = '''\
# an old one: token = "s3cret-a"
vehicle = "van-7"  # as painted on it
[[bus]]
name = "can0"
options = { password = "s3cret-b", user = "joe", port = 5 }
[[uplink]]
name = "cloud"
url = "https://joe:s3cret-c@cloud.example/in?sig=s3cret-d&v=1"
token_file = "s3cret-e"
client_key_file = "/etc/edge-agent/key"
proxy_auth_file = "proxy.txt"
passphrase = """
s3cret-f
and more"""
tokens = [
    "s3cret-g",  # one
    's3cret-h',
]
api_key = 1234567
[auth]
value = "s3cret-i"
[spool]
quota_mb = 512
'''


def scrubber(environment: Mapping[str, str] = MappingProxyType({})) -> Scrubber:
    return Scrubber(environment, exists=lambda name: name == "proxy.txt")


def test_a_configuration_keeps_its_lines_and_loses_its_secrets() -> None:
    cleaner = scrubber()
    text = cleaner.text(cleaner.toml(CONFIG))
    assert "s3cret" not in text
    assert "1234567" not in text
    assert len(text.splitlines()) == len(CONFIG.splitlines())
    for line in (
        'vehicle = "van-7"  #',
        f'options = {{ password = "{REMOVED}", user = "joe", port = 5 }}',
        f'url = "https://{REMOVED}@cloud.example/in?{REMOVED}"',
        f'token_file = "{REMOVED}"',
        'client_key_file = "/etc/edge-agent/key"',
        'proxy_auth_file = "proxy.txt"',
        "quota_mb = 512",
    ):
        assert line in text.splitlines()
    assert tomllib.loads(text)["spool"] == {"quota_mb": 512}


@pytest.mark.parametrize(
    "text",
    [
        'token = "s3cret',
        "token = 's3cret\nx = 1",
        'token = """s3cret\nmore s3cret',
        "token = s3cret",
        'a.b.token = "s3cret"',
        '"token" = "s3cret"',
        'x = [ { token = "s3cret" }, { a = 1 } ]',
        'token = [ "s3cret"',
        '[x.secrets]\na = "s3cret"',
        "Token=s3cret",
        'x = 1 # token = "s3cret"',
        'token = { a = { b = "s3cret" } }'.replace("{ a = { b", "{ token = { password"),
    ],
)
def test_a_broken_configuration_loses_them_too(text: str) -> None:
    cleaner = scrubber()
    assert "s3cret" not in cleaner.text(cleaner.toml(text))


ordinary = st.text("abcxyz_", min_size=1, max_size=8).filter(lambda name: not is_secret(name))
words = st.from_regex(r"[a-z]{6}[0-9]{6}", fullmatch=True)


@given(
    st.lists(st.tuples(ordinary, words), max_size=4),
    st.sampled_from(["token", "password", "auth", "x_secret", "api-key"]),
    words,
    st.integers(0, 4),
    st.sampled_from(['"', "'", '"""', "'''"]),
)
def test_wherever_it_stands_a_secret_goes_and_the_rest_stays(
    others: list[tuple[str, str]], name: str, secret: str, at: int, quote: str
) -> None:
    lines = [f'{key} = "{value}"' for key, value in others]
    lines.insert(at, f"{name} = {quote}{secret}{quote}")
    cleaner = scrubber()
    text = cleaner.text(cleaner.toml("\n".join(lines)))
    assert secret not in text
    assert all(f'{key} = "{value}"' in text for key, value in others if secret not in value)


@given(st.text(max_size=200))
def test_any_text_can_be_scrubbed(text: str) -> None:
    cleaner = scrubber()
    assert cleaner.toml(text).count("\n") == text.count("\n")
    assert isinstance(cleaner.text(cleaner.unit(text)), str)


@given(st.text("abc123 =[]{}'\"#\n.", max_size=200))
def test_where_nothing_is_secret_only_comments_go(text: str) -> None:
    without = scrubber().toml(text)
    assert set(without) <= set(text)
    assert "#" in text or without == text


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("mqtts://u:s3cret@host:8883/x", f"mqtts://{REMOVED}@host:8883/x"),
        ("http://s3cret@host", f"http://{REMOVED}@host"),
        ("https://h/a?token=s3cret", f"https://h/a?{REMOVED}"),
        ("https://hooks/AbCd0123456789AbCd0123456789", f"https://hooks/{REMOVED}"),
        (
            "https://h/v1/vehicles/van-7/batches/0123456789abcdef-3-telemetry-12",
            "https://h/v1/vehicles/van-7/batches/0123456789abcdef-3-telemetry-12",
        ),
        ("said Bearer s3cret.abc, twice", f"said Bearer {REMOVED}, twice"),
        ("Authorization: Basic czNjcmV0", f"Authorization: {REMOVED}"),
        ('{"token": "s3cret", "n": 1}', f'{{"token": "{REMOVED}", "n": 1}}'),
        ("password=s3cret next", f"password={REMOVED} next"),
        ("run --token s3cret -c x", f"run --token {REMOVED} -c x"),
        ("/etc/edge-agent/token: cannot be read", "/etc/edge-agent/token: cannot be read"),
        ("a new credential is needed", "a new credential is needed"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.sflKxw", REMOVED),
        (
            "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\nx",
            f"-----BEGIN EC PRIVATE KEY-----{REMOVED}-----END EC PRIVATE KEY-----\nx",
        ),
    ],
)
def test_what_a_secret_looks_like_anywhere(text: str, clean: str) -> None:
    assert scrubber().text(text) == clean


def test_a_secret_that_was_met_once_is_found_everywhere() -> None:
    cleaner = scrubber({"EDGE_AGENT_OTA_PASSPHRASE": "open sesame", "HOME": "/root"})
    cleaner.toml('url = "x"\npassword = "p\\"q1234"')
    cleaner.text("http://joe:top%40hill@h/")
    assert cleaner.text("they said open sesame, then top@hill") == (
        f"they said {REMOVED}, then {REMOVED}"
    )
    assert cleaner.text("/root stays") == "/root stays"


def test_a_short_secret_is_no_reason_to_spoil_words() -> None:
    cleaner = scrubber({"TOKEN": "read"})
    assert cleaner.text("reading, but read") == f"reading, but {REMOVED}"
    assert scrubber({"TOKEN": "abc"}).text("abc") == "abc"


def test_the_folder_that_somebody_is_in_is_no_secret() -> None:
    assert scrubber({"PWD": "/srv/agent"}).text("/srv/agent/x") == "/srv/agent/x"


def test_variables_are_named() -> None:
    text = scrubber().variables(
        {
            "EDGE_AGENT_SPOOL__QUOTA_MB": "100",
            "EDGE_AGENT_OTA_PASSPHRASE": "s3cret",
            "EDGE_AGENT_UPLINK__CLOUD__TOKEN_FILE": "/etc/token",
            "EDGE_AGENT_BUS__X__OPTIONS": '{ password = "s3cret" }',
        }
    )
    assert text.splitlines() == [
        f'EDGE_AGENT_BUS__X__OPTIONS={{ password = "{REMOVED}" }}',
        f"EDGE_AGENT_OTA_PASSPHRASE={REMOVED}",
        "EDGE_AGENT_SPOOL__QUOTA_MB=100",
        "EDGE_AGENT_UPLINK__CLOUD__TOKEN_FILE=/etc/token",
    ]


def test_units_keep_what_is_no_secret() -> None:
    unit = """\
[Service]
ExecStart=/usr/bin/edge-agent run -c /etc/edge-agent/agent.toml
Environment=OPENBLAS_NUM_THREADS=1 "CLOUD=s3cret words" EDGE_AGENT_A__TOKEN=s3cret
Environment='EDGE_AGENT_LOG_LEVEL=debug'
LoadCredential=token:/etc/edge-agent/token
SetCredential=token:s3cret-\\
    more
MemoryMax=768M
"""
    cleaner = scrubber()
    assert cleaner.text(cleaner.unit(unit)).splitlines() == [
        "[Service]",
        "ExecStart=/usr/bin/edge-agent run -c /etc/edge-agent/agent.toml",
        f"Environment=OPENBLAS_NUM_THREADS=1 CLOUD={REMOVED} EDGE_AGENT_A__TOKEN={REMOVED}",
        "Environment=EDGE_AGENT_LOG_LEVEL=debug",
        "LoadCredential=token:/etc/edge-agent/token",
        f"SetCredential=token:{REMOVED}",
        "MemoryMax=768M",
    ]


@pytest.mark.parametrize(
    "piece",
    [
        "x",
        "[",
        '"',
        "'",
        "#",
        "=",
        "a.",
        "a=",
        "{",
        "-",
        "--a",
        "eyJ",
        "token",
        "a://",
        "@",
        "?&",
        "]",
    ],
)
def test_a_long_text_without_sense_takes_no_longer_than_another(piece: str) -> None:
    """The time-out of a test is what fails here: what is tried at each place has to be bounded."""
    text = piece * (200_000 // len(piece))
    cleaner = scrubber()
    cleaner.text(cleaner.toml(text))
    cleaner.text(cleaner.unit(text))
