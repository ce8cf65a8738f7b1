"""Read a configuration file: text → nodes → sections → rules. All faults at once.

The only place of the configuration that touches files and the environment. Runs at start
and in `barn-gateway check`, in the main thread.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from gateway.config import rules
from gateway.config.convert import SECRET_KEYS, Converter, Override
from gateway.config.document import read_document
from gateway.config.faults import Contradiction, Fault
from gateway.config.schema import Config
from gateway.errors import ConfigError

VARIABLES = {
    "MQTT_BROKER_HOST": "mqtt.broker_host",
    "MQTT_BROKER_PORT": "mqtt.broker_port",
    "MQTT_USERNAME": "mqtt.username",
    "MQTT_PASSWORD": "mqtt.password",
    "MQTT_KEEPALIVE": "mqtt.keepalive",
    "MQTT_MONITOR_ENABLED": "service.enable_mqtt_monitor",
    "MQTT_MONITOR_LOG_LEVEL": "logging.level",
    "MQTT_MONITOR_RECONNECT_DELAY": "mqtt.reconnect.initial_delay",
}
"""Document 2's environment variables (S2-004..011) and the key each stands above.
An empty variable counts as not set."""

_OTHERS_READ = 0o004


class Loaded(msgspec.Struct, frozen=True):
    """A file after reading: the configuration (usable if `faults` is empty) and its notes."""

    config: Config
    faults: tuple[Fault, ...]
    notes: tuple[Fault, ...] = ()


def read(
    path: Path | str,
    environ: Mapping[str, str] | None = None,
    jobs_without_detectors: tuple[str, ...] = (),
) -> Loaded:
    """Read a file and collect everything that is wrong or worth knowing.

    Args:
        path: the YAML file; an empty one means all defaults.
        environ: environment variables, `os.environ` if None.
        jobs_without_detectors: see `rules.warnings`.

    Raises:
        ConfigError: the file does not exist or cannot be read.
    """
    path, name = Path(path), str(path)
    environ = os.environ if environ is None else environ
    try:
        root, faults = read_document(path, name)
        shared = bool(path.stat().st_mode & _OTHERS_READ)
    except FileNotFoundError:
        hint = "name the file with --config, or start from config/gateway.yaml"
        raise ConfigError(f"{name}: no such file", (f"{name}: no such file; {hint}",), hint) from None
    except OSError as error:
        text = f"{name}: cannot be read: {error.strerror}"
        raise ConfigError(text, (text,), "check the path and its permissions") from None
    overrides = {key: Override(name, environ[name]) for name, key in VARIABLES.items() if environ.get(name)}
    converter = Converter(name, environ, overrides)
    if root is None and faults:
        return Loaded(Config(), tuple(faults))
    config: Config = converter.struct(Config, root, base=Config())
    faults += converter.faults
    faults += _placed(converter, rules.contradictions(config), {fault.path for fault in faults})
    faults.sort(key=lambda fault: (fault.place.line == 0, fault.place.line, fault.path))
    if faults:
        return Loaded(config, tuple(faults))
    found = [*rules.warnings(config, jobs_without_detectors)]
    found += [Contradiction((override_path,), "comes from the environment") for override_path in overrides]
    if shared:
        found += _readable_secrets(config, converter.from_environment)
    return Loaded(config, (), tuple(_placed(converter, found, set())))


def load(path: Path | str, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration of a file.

    Raises:
        ConfigError: with every fault, one line each: `file:line: key: what; remedy`.
    """
    return load_noted(path, environ).config


def load_noted(path: Path | str, environ: Mapping[str, str] | None = None) -> Loaded:
    """The configuration of a file and what is unwise about it.

    Raises:
        ConfigError: as `load`.
    """
    loaded = read(path, environ)
    if loaded.faults:
        count = len(loaded.faults)
        raise ConfigError(
            f"{path}: {count} fault{'s' if count > 1 else ''} in the configuration",
            tuple(map(str, loaded.faults)),
            "`barn-gateway check` lists them",
        )
    return loaded


def _placed(converter: Converter, found: Iterable[Contradiction], faulty: set[str]) -> list[Fault]:
    """Contradictions with their places, less those that only follow from a fault in a key."""
    return [
        Fault(converter.place_of(one.paths[0]), one.paths[0], one.text)
        for one in found
        if not any(_related(path, fault) for path in one.paths for fault in faulty)
    ]


def _related(path: str, fault: str) -> bool:
    return path == fault or fault.startswith((f"{path}.", f"{path}[")) or path.startswith(f"{fault}.")


def _readable_secrets(config: Config, from_environment: set[str]) -> list[Contradiction]:
    """Passwords written out in a file that every account may read (S0-108)."""
    found = []
    for section in ("mqtt", "uplink"):
        for key in SECRET_KEYS:
            path = f"{section}.{key}"
            if getattr(getattr(config, section), key, None) and path not in from_environment:
                text = "stands in a file everyone may read; chmod 640 it, or write ${MQTT_PASSWORD}"
                found.append(Contradiction((path,), text))
    for name, channel in config.notify.channels.items():
        path = f"notify.channels.{name}.url"
        if "@" in channel.url and path not in from_environment:
            text = "stands in a file everyone may read; chmod 640 it, or write its password as ${NAME}"
            found.append(Contradiction((path,), text))
    return found
