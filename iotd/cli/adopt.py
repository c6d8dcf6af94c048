"""`iotd adopt`: puts into place what AWS, or another authority, has handed out for this device."""

from __future__ import annotations

import grp
import os
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from iotd.cli import adoption, check, output, package
from iotd.cli.adoption import Block, Chosen, Item, Key, Known, Refused
from iotd.cli.load import sources
from iotd.config import edit, layers
from iotd.config.document import Unreadable
from iotd.errors import EXIT_FAULT, ConfigError
from iotd.host import clock, openssl
from iotd.mqtt.credentials import DAEMON_USER
from iotd.mqtt.settings import SYSTEM_CA, Tls
from iotd.mqtt.topics import is_aws_endpoint

# Debian keeps them up to date; AWS IoT Core is signed by the first and the third, the others are in reserve.
AMAZON_ROOTS = [Path(f"/usr/share/ca-certificates/mozilla/Amazon_Root_CA_{number}.crt") for number in (1, 2, 3, 4)]
MODE = 0o640
FOLDER_MODE = 0o750


class Placed(NamedTuple):
    """A file that is to stand in this place; `whence` tells a person where it comes from."""

    path: Path
    content: bytes
    whence: str


def run(options: Any) -> int:
    """Put certificate, key and authorities into place and write the configuration, or say why nothing was changed."""
    try:
        items = package.read(options.paths)
        plan, said = _planned(options, items)
        for line in said:
            output.say(line)
        if options.dry_run:
            output.say("nothing was changed (--dry-run)")
            return 0
        _place(plan)
    except (Refused, Unreadable) as refused:
        output.complain(f"iotd adopt: {refused}; nothing was changed" if isinstance(refused, Unreadable) else "\n".join(
            ["iotd adopt: nothing was changed:", *refused.lines]))
        return EXIT_FAULT
    except ConfigError as error:
        output.complain("\n".join(["iotd adopt: nothing was changed:", *error.lines()]))
        return EXIT_FAULT
    except OSError as error:
        more = "; run it as root: sudo iotd adopt …" if isinstance(error, PermissionError) and os.geteuid() else ""
        output.complain(f"iotd adopt: nothing was changed: {error.filename}: {error.strerror}{more}")
        return EXIT_FAULT
    return check.run(options)


def _planned(options: Any, items: list[Item]) -> tuple[list[Placed], list[str]]:
    """Return what is to be written, and that as lines for a person. Raises Refused, Unreadable, OSError."""
    file = Path(os.path.realpath(options.file))
    text, above, _ = sources(options.file)
    whole = layers.text_of(layers.merged(text, above))
    choice = _chosen(items)
    host = adoption.host_of(options.host, items)
    tls, thing = adoption.places(whole), adoption.thing_of(choice, items)
    broker = host or edit.found(whole, "mqtt", "host") or ""
    placed = [Placed(Path(tls.cert), choice.cert.encode(), choice.cert_file),
              Placed(Path(tls.key), choice.key.encode(), choice.key_file), *_authorities(choice, broker, tls)]
    in_the_way = [] if options.force else [
        f"{each.path} is there already, with something else in it; --force overwrites it"
        for each in placed if each.path.exists() and not adoption.same(each.path.read_bytes(), each.content)]
    try:
        after, changes = adoption.configured(text, above, host, thing, options.force)
    except Refused as refused:
        raise Refused(*in_the_way, *refused.lines) from None
    if in_the_way:
        raise Refused(*in_the_way)
    said = [f"{each.path}: from {each.whence}" for each in placed]
    if after != text:
        placed.append(Placed(file, after.encode(), ""))
        said += [f"{options.file}: {change}" for change in changes]
    return placed, said


def _chosen(items: list[Item]) -> Chosen:
    certificates: list[Known] = []
    keys: list[Key] = []
    faults: list[str] = []
    for block in adoption.blocks(items):
        try:
            if block.is_key:
                keys.append(Key(block, _public_key(block)))
            else:
                certificates.append(Known(block, openssl.certificate(block.pem)))
        except ValueError as error:
            faults.append(f"{block.file}: {error}")
    return adoption.chosen(certificates, keys, [*faults, *adoption.other_forms(items)], time.time(),
                           clock.clock_is_set())


def _public_key(block: Block) -> str:
    if block.is_protected:
        raise ValueError("the key is protected by a passphrase, which nobody can type at a boot; remove it: "
                         f"openssl pkey -in {block.file} -out {block.file}")
    try:
        return openssl.public_key(block.pem)
    except ValueError as error:
        raise ValueError(f"the key cannot be read ({error}); copy the file again") from None


def _authorities(choice: Chosen, host: str, tls: Tls) -> list[Placed]:
    """Return the file of the authorities: those of the package, and Amazon's where the broker is AWS's."""
    if tls.ca == SYSTEM_CA:
        return []
    path, found = Path(tls.ca), dict.fromkeys(choice.authorities)
    if path.exists():
        there = path.read_bytes()
        if {block.pem for block in adoption.blocks([Item("", there)])} >= found.keys():
            return [Placed(path, there, "what stands there")]
    if is_aws_endpoint(host) or not host:
        for root in AMAZON_ROOTS:
            with suppress(OSError):
                found[root.read_text("ascii")] = None
    whence = "what was handed out" if choice.authorities else "Amazon's roots, as the package ca-certificates has them"
    return [Placed(path, "".join(found).encode(), whence)] if found else []


def _place(placed: list[Placed]) -> None:
    """Write each file beside its place, and rename them once all of them are on the disk. Raises OSError, and then
    nothing has changed.
    """
    beside: list[tuple[Path, Path]] = []
    try:
        for each in placed:
            _make_folder(each.path.parent)
            new = each.path.with_name(f".{each.path.name}.new")
            beside.append((new, each.path))
            _write(new, each)
        for new, path in beside:
            new.replace(path)
    except OSError:
        for new, _ in beside:
            with suppress(OSError):
                new.unlink()
        raise
    for folder in {path.parent for _, path in beside}:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        os.fsync(descriptor)
        os.close(descriptor)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        folder.mkdir(mode=FOLDER_MODE)
        _give(folder, FOLDER_MODE)


def _write(new: Path, each: Placed) -> None:
    with suppress(FileNotFoundError):
        new.unlink()
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(each.content)
        file.flush()
        if each.whence:
            _give(new, MODE)
        else:  # the configuration stays whose it is
            found = each.path.stat()
            os.chown(descriptor, found.st_uid, found.st_gid)
            os.chmod(descriptor, stat.S_IMODE(found.st_mode))
        os.fsync(descriptor)


def _give(path: Path, mode: int) -> None:
    """Have the file be root's, and the daemon's to read; before the package is installed there is no daemon."""
    with suppress(KeyError):
        os.chown(path, 0, grp.getgrnam(DAEMON_USER).gr_gid)
    path.chmod(mode)
