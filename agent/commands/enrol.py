"""`edge-agent enrol`: a client certificate for this vehicle, first by a token, later by itself."""

import argparse
import datetime as dt
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from agent.commands.run import add_config, find_config
from agent.errors import ConfigError

if TYPE_CHECKING:
    from agent.settings import Device, Uplink
    from agent.uplink.enrolment import Files


def add_parser(sub: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = sub.add_parser(
        "enrol",
        help="get a client certificate for this vehicle, or a new one",
        description="Make a private key, and get a certificate for it with a token that is good "
        "once; or with --renew a new one for the one that is there. A running agent uses it from "
        "its next request on.",
    )
    add_config(parser)
    parser.add_argument("--uplink", metavar="NAME", help="for which uplink (default: the first)")
    parser.add_argument("--url", help="the cloud, in place of that of the uplink")
    parser.add_argument("--ca-file", metavar="FILE", help="in place of that of the uplink")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--token-file", type=Path, metavar="FILE", help="the token; - is the input")
    how.add_argument("--renew", action="store_true", help="show the present certificate instead")
    how.add_argument("--check", action="store_true", help="only say what is there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Enrol; prints until when the certificate is good.

    Raises:
        ConfigError: a file or an address cannot be used.
        UplinkError: there is no certificate to be had.
    """
    from agent.settings import load_device
    from agent.uplink.enrolment import enrol, present, renew

    device = load_device(find_config(args.config))
    uplink = _uplink(device, args.uplink)
    url = args.url or (uplink.url if uplink else "")
    if not url and not args.check:
        raise ConfigError("there is no uplink to enrol at; name the cloud with --url")
    files = _files(device, uplink, args.ca_file)
    end = present(device.vehicle, files)
    if args.check:
        if end is None:
            print(f"{device.vehicle} has no certificate in {files.certificate}")
            return 1
    elif args.renew:
        end = renew(url, device.vehicle, files)
    elif end is None or _over(end):
        end = enrol(url, device.vehicle, files, _token(args.token_file))
    print(f"{files.certificate}: {device.vehicle}, until {end:%Y-%m-%d %H:%M} UTC")
    if uplink is None or not uplink.client_cert_file:
        print("The uplink needs these keys:")
        print(f'  client_cert_file = "{files.certificate}"')
        print(f'  client_key_file = "{files.key}"')
    return 0


def _uplink(device: "Device", name: str | None) -> "Uplink | None":
    if name is None:
        return next(iter(device.uplink), None)
    for uplink in device.uplink:
        if uplink.name == name:
            return uplink
    raise ConfigError(f'there is no uplink "{name}" in the device file')


def _files(device: "Device", uplink: "Uplink | None", ca_file: str | None) -> "Files":
    from agent.uplink.enrolment import Files

    certificate = uplink.client_cert_file if uplink else ""
    key = (uplink.client_key_file or certificate) if uplink else ""
    if certificate and key == certificate:
        raise ConfigError(
            "enrolment needs a file for the key of its own: set client_key_file beside "
            "client_cert_file"
        )
    state = Path(device.state_dir)
    return Files(
        Path(certificate) if certificate else state / "client.crt",
        Path(key) if key else state / "client.key",
        ca_file or (uplink.ca_file if uplink else ""),
    )


def _over(end: dt.datetime) -> bool:
    return end <= dt.datetime.now(dt.UTC)


def _token(path: Path) -> str:
    from agent.uplink import trust

    if str(path) == "-":
        token = sys.stdin.readline().strip()
        if not token.isascii() or not token.isprintable() or not token or " " in token:
            raise ConfigError("the input does not begin with a token")
        return token
    try:
        return trust.read_token(str(path))
    except trust.Unusable as e:
        raise ConfigError(str(e)) from e
