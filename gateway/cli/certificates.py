"""`certificates`: the gateway's own authority, the server's certificate, those of devices."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.options import ConfigFile, load_config
from gateway.config import Config


def certificates(  # noqa: PLR0917 - typer reads the options by name
    config: ConfigFile = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Default: where broker.tls.certificate lies.")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="A further name or address of this machine; repeatable."),
    ] = None,
    renew: Annotated[
        bool, typer.Option("--renew", help="A new server certificate now, for the present names alone.")
    ] = False,
    device: Annotated[
        str | None, typer.Option("--device", help="Make a client certificate for this device instead.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder for a device's files.")] = Path(),
) -> None:
    """Make the gateway's own authority and server certificate, or what of them is missing or due."""
    # Here and not above: the service shares this module's parent and has no use for it, 8 MB.
    from gateway.certify import ensure, folder_of, issue  # noqa: PLC0415

    place = folder or folder_of(load_config(config))
    if device is not None:
        settings = load_config(config)
        issued = issue(place, device, out)
        print(f"certificate: {issued.certificate}, until {issued.until:%Y-%m-%d}")
        print(f"key:         {issued.key}; give it to {device} and to nobody else")
        print(f"try it:      {_try(settings, place, issued.certificate, issued.key, device)}")
        return
    made = ensure(place, name or [], renew=renew)
    print(f"authority:   {made.ca}; every client must trust it")
    print(f"fingerprint: SHA-256 {made.fingerprint}")
    print(f"certificate: {made.certificate}, until {made.until:%Y-%m-%d}, for {', '.join(made.names)}")
    print(f"key:         {made.key}")
    for path in made.written:
        print(f"wrote:       {path}")
    if not made.written:
        print("nothing to do: everything is as it should be")
    elif made.certificate in made.written:
        print("a running gateway uses it from its next start on: sudo systemctl restart barn-gateway")


def _try(config: Config, place: Path, certificate: Path, key: Path, device: str) -> str:
    topic = config.mqtt.topic_pattern.replace("+", device)
    return (
        f"mosquitto_pub -h localhost -p {config.broker.tls.port} --cafile {place / 'ca.crt'} "
        f"--cert {certificate} --key {key} -i {device} -q 1 -t {topic} -m '{{}}'"
    )
