"""Over MQTT: addresses, topics, receipts, and what the reason codes of a broker mean."""

import hashlib
import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import SECOND, BootNs
from agent.errors import ConfigError
from agent.settings import Uplink
from agent.uplink import mqttwire, wire
from agent.uplink.door import make_transport, proof
from agent.uplink.mqttwire import Broker, Receipt
from agent.uplink.policy import Acknowledged, Answer, Decision, Digest, Hold, PassOver, Policy, Wait

SHA = hashlib.sha256(b"batch").digest()
OURS = wire.digest_field(SHA)
OTHER = wire.digest_field(hashlib.sha256(b"other").digest())


def decided(answer: Answer, *, kind: str = "http") -> Decision:
    policy = Policy("object-store" if kind == "object-store" else "http", lambda: 0.5)
    return policy.answered("b-1", answer, BootNs(1000 * SECOND))


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("mqtt://a", Broker("a", 1883, tls=False, prefix="")),
        ("mqtts://a", Broker("a", 8883, tls=True, prefix="")),
        ("mqtt://a:1/", Broker("a", 1, tls=False, prefix="")),
        ("mqtts://a:9/fleet/eu/", Broker("a", 9, tls=True, prefix="fleet/eu")),
        ("mqtt://[::1]:1884/x", Broker("::1", 1884, tls=False, prefix="x")),
        ("mqtt://van%407:p%2Fw@a", Broker("a", 1883, False, "", "van@7", "p/w")),
    ],
)
def test_the_address_of_a_broker(url: str, broker: Broker) -> None:
    assert Broker.parse(url) == broker


@pytest.mark.parametrize(
    "url",
    [
        "http://a",
        "mqtt://",
        "mqtt://a:x",
        "mqtt://a:99999",
        "mqtt://a/+/x",
        "mqtt://a/%23",
        "mqtt://a/$share",
        "mqtt://a/x?y",
        "mqtt://user:secret@/x",
    ],
)
def test_what_is_no_address_of_a_broker_is_refused_without_its_secrets(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Broker.parse(url)
    assert "secret" not in str(caught.value)


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(Broker.parse("mqtt://user:secret@a"))


@pytest.mark.parametrize("prefix", ["", "/fleet", "/fleet/eu"])
def test_the_topic_of_a_batch_leads_back_to_vehicle_and_batch(prefix: str) -> None:
    broker = Broker.parse(f"mqtt://a{prefix}")
    topic = broker.batch("van-7", "00ff-1-event-2")
    assert topic == f"{prefix}/v1/vehicles/van-7/batches/00ff-1-event-2".removeprefix("/")
    assert broker.parse_batch(topic) == ("van-7", "00ff-1-event-2")
    assert broker.parse_batch(broker.receipts("van-7")) is None
    assert broker.parse_batch(broker.status("van-7")) is None
    assert broker.parse_batch(broker.nudge("van-7")) is None
    assert broker.parse_batch(f"other/{topic}") is None
    assert broker.parse_batch(f"{topic}/more") is None


@given(st.text())
def test_any_text_as_a_topic_is_read_or_not(topic: str) -> None:
    broker = Broker.parse("mqtt://a/fleet")
    named = broker.parse_batch(topic)
    assert named is None or broker.batch(*named) == topic


def test_the_topic_on_which_a_vehicle_is_told_to_look_for_configuration() -> None:
    assert Broker.parse("mqtt://a/fleet").nudge("van-7") == "fleet/v1/vehicles/van-7/ota"
    assert Broker.parse("mqtt://a").nudge("van-7") == "v1/vehicles/van-7/ota"


def test_the_filter_of_a_group_names_its_members_and_all_vehicles() -> None:
    shared = Broker.parse("mqtt://a/fleet").all_batches("eu-1")
    assert shared == "$share/eu-1/fleet/v1/vehicles/+/batches/+"


@pytest.mark.parametrize(
    "receipt",
    [
        Receipt("b-1", 201, OURS),
        Receipt("b-1", 422, detail="no batch: ümlaut"),
        Receipt("b-1", 412, OTHER, "here with other content"),
    ],
)
def test_a_receipt_arrives_as_it_was_sent(receipt: Receipt) -> None:
    assert Receipt.decode(receipt.encode()) == receipt


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[201]",
        b"{}",
        b'{"batch_id": "b-1"}',
        b'{"batch_id": "b-1", "status": "201"}',
        b'{"batch_id": "b-1", "status": true}',
        b'{"batch_id": "b-1", "status": 99}',
        b'{"batch_id": "b-1", "status": 1e3}',
        b'{"batch_id": 1, "status": 201}',
        b'{"batch_id": "", "status": 201}',
        b'{"batch_id": "b-1", "status": 201, "digest": 5}',
        b'{"batch_id": "b-1", "status": 201, "detail": [""]}',
        b"[" * 4000,
        json.dumps({"batch_id": "b-1", "status": 201, "detail": "x" * 5000}).encode(),
    ],
)
def test_what_is_no_receipt_is_none(payload: bytes) -> None:
    assert Receipt.decode(payload) is None


@given(
    st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    ).map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {"batch_id": st.text(), "status": st.integers()},
        optional={"digest": st.text(), "detail": st.text(st.characters())},
    ).map(lambda value: json.dumps(value).encode())
)
def test_any_bytes_as_a_receipt_are_read_or_not(payload: bytes) -> None:
    receipt = Receipt.decode(payload)
    if receipt is not None:
        assert receipt.answer(SHA).digest is not Digest.MATCHED
        assert receipt.answer(SHA).detail.isprintable()


def test_only_a_receipt_with_our_digest_lets_a_batch_go() -> None:
    assert decided(Receipt("b-1", 201, OURS).answer(SHA)) == Acknowledged()
    assert decided(Receipt("b-1", 200, OURS).answer(SHA)) == Acknowledged()
    assert isinstance(decided(Receipt("b-1", 201, OTHER).answer(SHA)), Wait)
    assert isinstance(decided(Receipt("b-1", 201).answer(SHA)), Wait)
    assert isinstance(decided(Receipt("b-1", 422).answer(SHA)), PassOver)
    assert isinstance(decided(Receipt("b-1", 507).answer(SHA)), Wait)


@pytest.mark.parametrize(
    ("code", "decision", "words"),
    [
        (0x10, Wait, "no cloud is subscribed"),
        (0x80, Wait, "unspecified"),
        (0x84, Hold, "version"),
        (0x86, Hold, "password"),
        (0x87, Hold, "not authorized"),
        (0x89, Wait, "busy"),
        (0x8B, Wait, "shutting down"),
        (0x90, Hold, "topic name"),
        (0x95, PassOver, "packet too large"),
        (0x97, Wait, "quota exceeded"),
        (0x9D, Hold, "moved"),
        (0xFF, Wait, "0xff"),
    ],
)
def test_a_reason_code_leads_to_a_decision_and_says_why(
    code: int, decision: type[Decision], words: str
) -> None:
    name = {
        0x80: "Unspecified error",
        0x84: "Unsupported protocol version",
        0x86: "Bad user name or password",
        0x87: "Not authorized",
        0x89: "Server busy",
        0x8B: "Server shutting down",
        0x90: "Topic name invalid",
        0x95: "Packet too large",
        0x97: "Quota exceeded",
        0x9D: "Server moved",
    }.get(code, "?")
    answer = mqttwire.refusal(code, name, "the batch")
    assert answer is not None
    for kind in ("http", "object-store"):
        made = decided(answer, kind=kind)
        assert isinstance(made, decision)
    assert words in answer.detail


def test_every_reason_code_is_a_success_or_an_answer_that_keeps_the_batch() -> None:
    for code in range(256):
        answer = mqttwire.refusal(code, "whatever", "the batch")
        if answer is None:
            assert code < 0x80
        else:
            assert isinstance(decided(answer, kind="object-store"), Wait | Hold | PassOver)


@pytest.mark.parametrize(
    ("payload", "size"),
    [(0, 10), (119, 129), (120, 131), (16_375, 16_386), (16_376, 16_388), (2_097_144, 2_097_157)],
)
def test_the_size_of_a_message_counts_all_that_is_around_its_payload(
    payload: int, size: int
) -> None:
    # Fixed header 1 + 1 to 4, topic 2 + 3, packet identifier 2, properties (here none) 1.
    assert mqttwire.packet_size("a/b", 1, payload) == size


def test_the_digest_of_a_message_is_found_among_other_properties() -> None:
    assert mqttwire.digest_of([("x", "y"), ("Content-Digest", OURS)]) == OURS
    assert mqttwire.digest_of([("x", "y")]) == ""


@pytest.mark.parametrize(
    ("kind", "url"),
    [("mqtt", "https://a"), ("http", "mqtt://a"), ("object-store", "mqtts://a")],
)
def test_an_address_that_does_not_fit_its_kind_is_refused(kind: str, url: str) -> None:
    settings = Uplink(name="u", url=url)
    settings.kind = "mqtt" if kind == "mqtt" else "http" if kind == "http" else "object-store"
    with pytest.raises(ConfigError, match=f'uplink "u": kind = "{kind}" wants an address'):
        make_transport(settings, "car", "agent")


def test_what_shows_that_a_batch_was_delivered() -> None:
    by_cloud = Uplink(name="u", kind="mqtt", url="mqtt://a")
    by_broker = Uplink(name="u", kind="mqtt", url="mqtt://a", acknowledge="broker")
    assert proof(by_cloud) == "http"
    assert proof(by_broker) == "object-store"
    assert proof(Uplink(name="u", url="http://a")) == "http"


_WITHOUT = """
import sys
sys.modules["aiomqtt"] = None
from agent.errors import ConfigError
from agent.settings import Uplink
from agent.uplink.door import make_transport
make_transport(Uplink(name="u", url="http://a"), "car", "agent")
try:
    make_transport(Uplink(name="u", kind="mqtt", url="mqtt://a"), "car", "agent")
except ConfigError as error:
    print(error)
"""


def test_without_the_extra_http_works_and_mqtt_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT], capture_output=True, text=True, check=True, timeout=60
    )
    assert 'pip install "vehicle-edge-agent[mqtt]"' in done.stdout
