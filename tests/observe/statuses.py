"""A status as `Daemon.status` gives it, of an agent that is well."""

import copy
from typing import Any

from agent.ledger import Ledger

WELL: dict[str, Any] = {
    "agent": "0.1.0",
    "vehicle": "van-7",
    "plan": "ev",
    "campaigns": [
        {
            "name": "drive",
            "lane": "telemetry",
            "signals": 12,
            "events": 0,
            "suppressed": 2,
            "ring_bytes": 4096,
        }
    ],
    "health": {},
    "recognition": {"decided": True, "recognised": None, "buses": {}, "findings": []},
    "uptime_s": 3600.5,
    "clock": "ntp",
    "boot_id": "0fa1b2c3-5d3e-4f1a-9c77-000000000000",
    "buses": [
        {
            "name": name,
            "kind": "socketcan",
            "state": "reading",
            "last_frames_s": 0.1,
            "controller": "active",
            "transmit_errors": 0,
            "receive_errors": 3,
            "load_percent": 33.3,
            "error_frames": 7,
            "last_error": "bit stuffing",
            "listen_only": True,
            "buffer_bytes": 8_000_000,
        }
        for name in ("powertrain", "body", "chassis", "charging")
    ],
    "ignition": {"state": "awake", "trouble": ""},
    "link": {
        "metered": True,
        "trouble": "",
        "day": {"name": "2031-05-10", "spent_bytes": 1_500_000, "up_s": 600},
        "month": {"name": "2031-05", "spent_bytes": 31_500_000, "up_s": 600},
    },
    "budget": {
        "level": 1,
        "factor": 2,
        "lanes_off": [],
        "degraded": "one sample in 2 is kept",
        "since_boot_s": 12.5,
        "budgets": [{"link": "any", "used_bytes": 7_100_000, "limit_bytes": 10_000_000}],
    },
    "limits": {
        "level": 0,
        "since_boot_s": None,
        "written_bytes": 1_234_567,
        "limits": [
            {
                "name": "memory",
                "used": 134_217_728,
                "limit": 512 << 20,
                "used_ratio": 0.25,
                "level": 0,
                "said": "memory 128 MB of 512 MB",
            }
        ],
        "degraded": "",
    },
    "uplinks": [
        {
            "name": "cloud",
            "url": "https://cloud.example",
            "state": "idle",
            "why": "nothing waits",
            "until_s": None,
            "answered_s_ago": 3.0,
            "last_success_s_ago": 3.0,
            "credential": "",
            "sent_batches": 60,
            "sent_bytes": 2_400_000,
            "quarantined_batches": 0,
            "resent_batches": 0,
            "attempts": 62,
            "retries": 2,
            "answers": {"201": 60, "503": 1, "network": 1, "HEAD 404": 1},
        }
    ],
    "spool": {
        "folder": "/var/lib/edge-agent/spool",
        "install": "1f2e3d",
        "run": 12,
        "trouble": "",
        "memory_bytes": 12_288,
        "quota_bytes": 512 << 20,
        "lanes": {"cloud": {"telemetry": {"batches": 2, "bytes": 80_000}}},
        "open": {},
        "durable": {"telemetry/cloud": {"batch_id": "x", "age_s": 0.4}},
        "sent": {"cloud": {"batches": 1, "bytes": 40_000}},
        "quarantine": {},
    },
    "ota": {
        "running": "ev 3",
        "last_good": "ev 3",
        "previous": "ev 2",
        "trial": None,
        "pinned": False,
        "rejected": [{"bundle": "ev 4", "why": "it takes too much"}],
        "state": "waiting",
        "why": "ev 3 runs",
        "trouble": "",
        "looked_s_ago": 1200.0,
        "expires": 1_936_000_000,
        "clock_untrusted": False,
        "findings": [],
    },
    "process": {"cpu_s": 132.5, "memory_bytes": 91_000_000},
    "machine": {
        "temperature_c": 51.5,
        "disk": {"free_bytes": 7_000_000_000, "size_bytes": 8_000_000_000},
        "flash": {"mmcblk0": {"life": [1, 2], "end_of_life": 1}},
    },
    "differences": [],
}


def _ledger() -> Ledger:
    ledger = Ledger()
    for name in ("powertrain", "body", "chassis", "charging"):
        ledger.add("bus", name, received=1_234_567, read=1_234_560, dropped=7)
        ledger.add("bus", name, decoded=1_200_000, unknown=34_560)
    ledger.add("campaign", "drive", offered=100, kept=60, thinned=40)
    ledger.add("uplink", "cloud", kept=60, spooled=60, acknowledged=50, waiting=10)
    return ledger


def well(*changes: tuple[Any, ...]) -> dict[str, Any]:
    """A status of an agent that is well; each change is a place, key by key, and a value there."""
    status = copy.deepcopy(WELL) | {"ledger": _ledger().snapshot()}
    for *place, last, value in changes:
        where: Any = status
        for key in place:
            where = where[key]
        where[last] = value
    return status
