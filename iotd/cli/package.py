"""Reads what a person has been handed: files, folders, and the zip of the AWS console. All of it is bounded, and
nothing of an archive is ever unpacked to a disk.
"""

from __future__ import annotations

import io
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from iotd.cli.adoption import Item, Refused
from iotd.cli.told import printable

MAX_FILE_BYTES = 1 << 20
MAX_ARCHIVE_BYTES = 1 << 24
MAX_FILES = 500
MAX_DEPTH = 3
_ARCHIVE = b"PK\x03\x04"


def read(paths: list[str]) -> list[Item]:
    """Return what is in these files, folders and archives. Raises Refused with every path that is of no use."""
    items: list[Item] = []
    problems: list[str] = []
    for path in paths:
        try:
            for item in _of_path(Path(path)):
                items.append(item)
                if len(items) > MAX_FILES:
                    raise Refused(f"{path}: more than {MAX_FILES} files; name those of this device")
        except OSError as error:
            problems.append(f"{printable(error.filename or path)}: {error.strerror}")
        except Refused as refused:
            problems += refused.lines
    if problems:
        raise Refused(*problems)
    return items


def _of_path(path: Path) -> Iterator[Item]:
    if not path.is_dir():
        yield from _opened(printable(path), _content(path))
        return
    for folder, names, files in os.walk(path, onerror=_raise):
        names[:] = sorted(names) if len(Path(folder).relative_to(path).parts) < MAX_DEPTH else []
        for file in (Path(folder, name) for name in sorted(files)):
            # What a folder links to is not in it, and what is large is none of ours.
            if not file.is_symlink() and file.is_file() and file.stat().st_size <= MAX_FILE_BYTES:
                yield from _opened(printable(file), _content(file))


def _raise(error: OSError) -> None:
    raise error


def _content(path: Path) -> bytes:
    """Return a file's content; raises Refused for what is no file, or too large to be one of these."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO would never end
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Refused(f"{printable(path)} is no file")
        content = file.read(MAX_ARCHIVE_BYTES + 1)
    limit = MAX_ARCHIVE_BYTES if content.startswith(_ARCHIVE) else MAX_FILE_BYTES
    if len(content) > limit:
        raise Refused(f"{printable(path)} is larger than {limit} bytes; it is nothing that AWS hands out")
    return content


def _opened(name: str, content: bytes) -> Iterator[Item]:
    """Yield a file, or what is in an archive."""
    if not content.startswith(_ARCHIVE):
        yield Item(name, content)
        return
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield from _members(name, archive)
    except (zipfile.BadZipFile, zlib.error, EOFError, LookupError, NotImplementedError, RuntimeError,
            ValueError) as error:
        why = printable(error) or type(error).__name__
        raise Refused(f"{name} cannot be unpacked: {why}; download it again") from None


def _members(name: str, archive: zipfile.ZipFile) -> Iterator[Item]:
    left = MAX_ARCHIVE_BYTES
    members = archive.infolist()
    if len(members) > MAX_FILES:
        raise Refused(f"{name} holds more than {MAX_FILES} files; it is nothing that AWS hands out")
    for member in members:
        inside = f"{name}/{printable(member.filename)}"
        if re.match(r"[/\\]|[A-Za-z]:", member.orig_filename) or ".." in re.split(r"[/\\]", member.orig_filename):
            raise Refused(f"{inside} is a path out of the archive; whoever made that meant harm; nothing is taken")
        if member.is_dir():
            continue
        if member.flag_bits & 1:
            raise Refused(f"{inside} asks for a passphrase; unpack it, and name the folder")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise Refused(f"{inside} is packed in a way that no zip of AWS's is; unpack it, and name the folder")
        with archive.open(member) as file:
            content = file.read(min(MAX_FILE_BYTES, left) + 1)
        left -= len(content)
        if len(content) > MAX_FILE_BYTES or left < 0:
            raise Refused(f"{inside} is larger than anything that AWS hands out; nothing of {name} is taken")
        yield Item(inside, content)
