"""`edge-agent spool`: look into a spool folder, of a running agent or of a removed disk."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.commands.run import add_config, find_config
from agent.commands.status import add_where, socket_of
from agent.errors import BatchError, ConfigError

if TYPE_CHECKING:
    from agent.clock import Anchor
    from agent.spool.survey import Look, Place


def add_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = sub.add_parser(
        "spool", help="look into a spool folder, of a running agent or of a removed disk"
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_where(
        actions.add_parser(
            "list",
            help="which batches lie there",
            description="List the batches by uplink and lane. Nothing is changed or locked.",
        )
    )
    _add_where(
        actions.add_parser(
            "verify",
            help="read every batch, and say what is wrong",
            description="Read every batch wholly: checksums, names, footers. Exit status 1 where "
            "something is wrong.",
        )
    )
    export = actions.add_parser(
        "export",
        help="copy whole batches into a folder",
        description="Copy (or link, on the same file system) every batch once into a folder, for "
        "`edge-agent batch export` or a receiver. An open one is cut at its last whole chunk and "
        "sealed; while an agent writes it, it is left out.",
    )
    export.add_argument("to", type=Path, metavar="DEST", help="a folder; made where it is missing")
    export.add_argument("--uplink", help="only what is there for this uplink")
    export.add_argument(
        "--all", action="store_true", help="also sent batches that are kept, and quarantine"
    )
    _add_where(export)
    resend = actions.add_parser(
        "resend",
        help="let a running agent send kept batches once more",
        description="Put acknowledged batches that are still kept (keep_sent_hours) back into the "
        "queue, from the first to the last of one run and lane.",
    )
    resend.add_argument("uplink", metavar="UPLINK")
    resend.add_argument("first", metavar="FIRST", help="a batch id")
    resend.add_argument("last", metavar="LAST", nargs="?", default="", help="default: FIRST alone")
    add_where(resend)
    resend.set_defaults(run=_resend)
    parser.set_defaults(run=run)


def _resend(args: argparse.Namespace) -> int:
    from agent.observe.report import batches_of
    from agent.observe.socket import ask

    answer = ask(socket_of(args), "resend", args.uplink, args.first, args.last, timeout_s=60.0)
    if args.json:
        print(json.dumps(answer))
    else:
        print(f"once more: {batches_of(answer['batches'])}")
    return 0 if answer["batches"] else 1


def _add_where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--spool",
        type=Path,
        metavar="DIR",
        help="the spool or state folder, in place of the device file's",
    )
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """0 good, 1 something in the spool is wrong.

    Raises:
        ConfigError: there is no such spool, or the target cannot be written.
    """
    from agent.spool.survey import spool_of

    if args.spool is not None:
        root = spool_of(args.spool)
    else:
        from agent.settings import load_device

        root = Path(load_device(find_config(args.config)).state_dir) / "spool"
    if not any((root / name).exists() for name in ("open", "uplinks", "install")):
        raise ConfigError(f"{root}: there is no spool here; name its folder with --spool")
    if args.action == "list":
        return _list(args, root)
    return _verify(args, root) if args.action == "verify" else _export(args, root)


# list


def _list(args: argparse.Namespace, root: Path) -> int:
    from agent.clock import SystemClock
    from agent.spool.survey import age_s, look, places

    looks = [found for place in places(root) if (found := look(place)) is not None]
    anchors = list(dict.fromkeys(anchor for found in looks for anchor in found.anchors))
    reasons = {
        (stone.get("uplink"), stone.get("batch_id")): str(stone.get("reason", ""))
        for found in looks
        for stone in found.tombstones
    }
    clock = SystemClock()
    rows = [
        {
            **_row(found, anchors, reasons),
            "age_s": None if (age := age_s(found, anchors, clock)) is None else round(age, 1),
        }
        for found in looks
    ]
    totals = _totals(rows)
    if args.json:
        print(json.dumps({"spool": str(root), "batches": rows, "totals": totals}, indent=2))
    else:
        for line in _readable(root, rows, totals):
            print(line)
    return 0


def _row(
    found: "Look", anchors: "list[Anchor]", reasons: dict[tuple[Any, Any], str]
) -> dict[str, Any]:
    from agent.clock import best_anchor
    from agent.spool.naming import lane_of

    place = found.place
    anchor = None
    if found.born is not None and not found.recorded:
        anchor = best_anchor(anchors, found.born.boot_id)
    offset = 0 if anchor is None else anchor.offset
    dated = "recorded" if found.recorded else "boot" if anchor is None else "wall"
    reason = found.trouble
    if place.state == "quarantined":
        reason = reason or reasons.get((place.uplink, place.batch_id), "")
    return {
        "batch_id": place.batch_id,
        "uplink": place.uplink or "+".join(found.uplinks),
        "lane": lane_of(place.batch_id),
        "state": place.state,
        "reason": reason.removeprefix("quarantined: "),
        "file": str(place.path),
        "bytes": found.size,
        "samples": found.samples,
        "clock": dated,
        "first": None if found.first_ns is None else (found.first_ns + offset) / 1e9,
        "last": None if found.last_ns is None else (found.last_ns + offset) / 1e9,
    }


def _totals(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    sums: dict[tuple[str, str, str], list[int]] = {}
    for row in rows:
        entry = sums.setdefault((row["uplink"], row["state"], row["lane"]), [0, 0, 0])
        for i, n in enumerate((1, row["bytes"], row["samples"])):
            entry[i] += n
    return [
        {"uplink": u, "state": s, "lane": x, "batches": n[0], "bytes": n[1], "samples": n[2]}
        for (u, s, x), n in sorted(sums.items())
    ]


def _readable(
    root: Path, rows: list[dict[str, Any]], totals: list[dict[str, Any]]
) -> Iterator[str]:
    from agent.observe.report import batches_of, duration, size, table

    yield f"{root}"
    if not rows:
        yield "  there are no batches"
        return
    lines: list[tuple[str, ...]] = [
        ("batch", "uplink", "state", "size", "samples", "first", "last", "age")
    ]
    for row in rows:
        reason = f" ({row['reason']})" if row["reason"] else ""
        lines.append(
            (
                row["batch_id"],
                row["uplink"],
                row["state"] + reason,
                size(row["bytes"]),
                f"{row['samples']:,}",
                _when(row["first"], row["clock"]),
                _when(row["last"], row["clock"]),
                "unknown" if row["age_s"] is None else duration(row["age_s"]),
            )
        )
    yield from table(lines)
    for sums in totals:
        yield (
            f"{sums['uplink']}, {sums['lane']}, {sums['state']}: {batches_of(sums['batches'])}, "
            f"{size(sums['bytes'])}, {sums['samples']:,} samples"
        )


def _when(seconds: float | None, clock: str) -> str:
    import numpy as np

    if seconds is None:
        return "-"
    if clock == "boot":
        return f"{seconds:.1f} s of its boot"
    return f"{np.datetime64(round(seconds), 's')}Z"


# verify


def _verify(args: argparse.Namespace, root: Path) -> int:
    from agent.observe.report import batches_of
    from agent.spool.survey import identity, places, verify

    found = list(places(root))
    by_id: dict[str, list[Place]] = {}
    by_inode: dict[tuple[int, int], list[Place]] = {}
    for place in found:
        by_id.setdefault(place.batch_id, []).append(place)
        by_inode.setdefault(place.inode, []).append(place)
    problems = identity(root, found)
    batches = samples = 0
    for names in by_inode.values():
        told = verify(names[0], [*names, *by_id[names[0].batch_id]])
        if told is None:
            continue
        batches += 1
        samples += told[1]
        problems += told[0]
        problems += [p for other in names[1:] for p in _misplaced(other, names[0])]
    if args.json:
        answer = {
            "spool": str(root),
            "batches": batches,
            "samples": samples,
            "problems": problems,
        }
        print(json.dumps(answer, ensure_ascii=False, indent=2))
    else:
        for problem in problems:
            print(problem)
        state = "nothing is wrong" if not problems else f"{len(problems)} problems"
        print(f"{root}: {batches_of(batches)}, {samples:,} samples: {state}")
    return 1 if problems else 0


def _misplaced(place: "Place", first: "Place") -> Iterator[str]:
    """A further name of a file whose content was read under its first one."""
    if place.state != first.state or place.state != "waiting":
        return
    if place.path.parent.name != first.path.parent.name:
        yield f"{place.path}: lies in another lane than {first.path}"


# export


def _export(args: argparse.Namespace, root: Path) -> int:
    from agent.observe.report import batches_of
    from agent.spool.survey import export, held, places

    live = held(root)
    states = ("waiting", "sent", "quarantined") if args.all else ("waiting",)
    problems: list[str] = []
    left_open = exported = 0
    try:
        args.to.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"{args.to}: cannot be made: {e.strerror}") from e
    done: set[str] = set()
    for place in places(root):
        if place.state == "open" and live:
            left_open += 1
            continue
        if place.state not in ("open", *states) or place.batch_id in done:
            continue
        if args.uplink and place.state != "open" and place.uplink != args.uplink:
            continue
        try:
            if export(place, args.to / place.path.name):
                exported += 1
                done.add(place.batch_id)
        except BatchError as e:
            problems.append(str(e))
        except OSError as e:
            raise ConfigError(f"{e.filename or args.to}: cannot be copied: {e.strerror}") from e
    if args.json:
        answer = {
            "target": str(args.to),
            "batches": exported,
            "left_open": left_open,
            "problems": problems,
        }
        print(json.dumps(answer, ensure_ascii=False, indent=2))
    else:
        for problem in problems:
            print(problem, file=sys.stderr)
        print(f"{args.to}: {batches_of(exported)}")
        if left_open:
            print(f"{left_open:,} are left out: a running agent still writes them")
    return 1 if problems else 0
