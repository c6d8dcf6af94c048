"""The names of jobs, packages and units that may be handed to a program of root's. Pure.

apt-get takes far more than names: `NAME-` removes; `NAME=VERSION`, `NAME/RELEASE`, `./file.deb` and patterns are
others.
Sources: Debian policy 5.6.1; systemd.unit(5); AWS IoT API reference, "jobId".
"""

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase

JOB = re.compile(r"[a-zA-Z0-9_-]{1,64}")
CLAIM = re.compile(r"[a-zA-Z0-9-]{1,64}")
PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{0,126}[a-z0-9.]")  # apt-get reads a - or + at the end as remove or install
PATTERN = re.compile(r"[a-z0-9*?][a-z0-9+.*?-]{0,127}")
UNIT = re.compile(r"[A-Za-z0-9:_\\@][A-Za-z0-9:_.\\@-]{0,240}\.(?:service|socket|timer|path|target|mount)")


def is_package(name: str) -> bool:
    """Tell whether this can only be the name of a package."""
    return PACKAGE.fullmatch(name) is not None


def is_unit(name: str) -> bool:
    """Tell whether this can only be the name of a unit."""
    return UNIT.fullmatch(name) is not None


def is_listed(package: str, patterns: Iterable[str]) -> bool:
    """Tell whether one of the patterns, in which * and ? stand for what they do in a shell, matches a package."""
    return any(fnmatchcase(package, pattern) for pattern in patterns)
