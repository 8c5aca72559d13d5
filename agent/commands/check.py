"""`edge-agent check`: everything that can be wrong in configuration, plan and databases."""

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent.commands.run import add_config, find_config

if TYPE_CHECKING:
    from agent.collect import Plan
    from agent.settings import Bus, Device

_BITRATE = 500_000
_SHORTEST_BITS = 55
"""Of a frame without data, with stuffing: there are no more frames a second than this allows."""
_KERNEL_BYTES = 832
"""What the kernel counts for a frame in a socket's buffer."""


def add_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = sub.add_parser(
        "check",
        help="check configuration, plan and DBC files before they run",
        description="Check the device file, its collection plan (or the given one) and their "
        "database files. Exit status 0: good; 1: usable, with findings; 2: not usable.",
    )
    add_config(parser)
    parser.add_argument("plan", nargs="?", type=Path, help="check this plan in place of its own")
    parser.add_argument(
        "--schema",
        choices=("device", "plan"),
        help="print the JSON Schema of agent.toml or of a plan, and do nothing else",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Check; prints what was found.

    Raises:
        ConfigError: the configuration cannot be used.
        DatabaseError: a database file cannot be used.
    """
    from agent.errors import ConfigError, DatabaseError
    from agent.ignition import signal_of
    from agent.ota import load_factory_plan
    from agent.settings import load_device, schema
    from agent.uplink.door import check_address, make_transport

    if args.schema:
        print(json.dumps(schema(args.schema), indent=2))
        return 0
    path = find_config(args.config)
    device = load_device(path)
    if args.plan:
        device.plan = str(args.plan.absolute())
    try:
        plan = load_factory_plan(device)
    except DatabaseError as e:
        raise ConfigError(str(e)) from e
    signal_of(device.ignition, plan)
    for uplink in device.uplink:
        check_address(uplink)
        if uplink.gbt32960 is None:
            make_transport(uplink, device.vehicle, "")
    findings = [str(finding) for finding in plan.database.findings]
    findings += _buffers(device.bus)
    findings += _unused(device.plan, plan.campaigns, device.receivers)
    findings += _without_reports(device, plan)
    unmapped = _unmapped(device, plan)
    campaigns = {c.name: len(c.signals) for c in plan.campaigns}
    if args.json:
        print(
            json.dumps(
                {
                    "config": str(path),
                    "vehicle": device.vehicle,
                    "plan": plan.name,
                    "buses": [bus.name for bus in device.bus],
                    "uplinks": [uplink.name for uplink in device.uplink],
                    "campaigns": campaigns,
                    **({"unmapped": unmapped} if unmapped else {}),
                    "findings": findings,
                }
            )
        )
        return 1 if findings else 0
    print(f"{path}: vehicle {device.vehicle}")
    print(f"  buses: {', '.join(bus.name for bus in device.bus) or 'none'}")
    print(f"  uplinks: {', '.join(uplink.name for uplink in device.uplink) or 'none'}")
    print(f"{device.plan}: plan {plan.name}")
    for name, count in campaigns.items():
        print(f"  campaign {name}: {count:,} signals")
    for platform, fields in unmapped.items():
        print(f"  platform {platform}: nothing is mapped to: {', '.join(fields) or '(all are)'}")
    for finding in findings:
        print(f"finding: {finding}")
    print("Good." if not findings else f"Usable, with {len(findings)} findings.")
    return 1 if findings else 0


def _without_reports(device: "Device", plan: "Plan") -> list[str]:
    named = plan.reports.platforms if plan.reports is not None else ()
    return [
        f'{device.plan}: [gbt32960] reports nothing to the platform "{name}"'
        for name in device.platforms
        if name not in named
    ]


def _unmapped(device: "Device", plan: "Plan") -> dict[str, list[str]]:
    """Of each platform, what its edition has and the plan does not map."""
    if plan.reports is None:
        return {}
    return {
        name: plan.reports.compiled.unmapped(device.platforms[name].edition)
        for name in plan.reports.platforms
    }


def _buffers(buses: Sequence["Bus"]) -> list[str]:
    """SocketCAN buses for which the kernel holds less than half a second."""
    from agent.settings import SocketCanBus

    try:
        most = int(Path("/proc/sys/net/core/rmem_max").read_text("ascii"))
    except (OSError, ValueError):
        return []
    found = []
    for bus in buses:
        if isinstance(bus, SocketCanBus):
            frames = (bus.bitrate or _BITRATE) / _SHORTEST_BITS
            # The kernel doubles what is asked for, and counts each frame with its own overhead.
            held = 2 * min(most, bus.receive_buffer_kib << 10) / _KERNEL_BYTES
            if held < frames / 2:
                needed = 1 << math.ceil(math.log2(frames * _KERNEL_BYTES / 2))
                found.append(
                    f'bus "{bus.name}": the kernel holds only {held / frames * 1000:.0f} ms of a '
                    f"full bus for a busy computer; let it hold more: "
                    f"sysctl -w net.core.rmem_max={needed}"
                )
    return found


def _unused(plan: str, campaigns: object, uplinks: list[str]) -> list[str]:
    from agent.collect import CompiledCampaign

    named = {
        uplink
        for campaign in (campaigns if isinstance(campaigns, tuple) else ())
        if isinstance(campaign, CompiledCampaign)
        for uplink in campaign.uplinks
    }
    return [
        f'{plan}: no campaign sends to the uplink "{uplink}"'
        for uplink in uplinks
        if uplink not in named
    ]
