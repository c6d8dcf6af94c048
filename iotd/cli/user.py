"""To look at files as the daemon does, whoever asks."""

from __future__ import annotations

import json
import os
import pwd
import sys
import traceback
from collections.abc import Callable
from typing import Any

from iotd.errors import ConfigError, Problem
from iotd.mqtt.credentials import DAEMON_USER
from iotd.vocabulary import Json

INTERRUPTED = 130  # as shells have it


def as_daemon(work: Callable[[], Json], name: str = DAEMON_USER) -> Json:
    """Return what `work` returns, from the daemon's directory, and as the daemon's user where root asks and there is
    such a user; everybody else, and root before the package is installed, looks as who they are.

    `work` is done in another process then, and its result is JSON. Raises ConfigError and KeyboardInterrupt where it
    does, RuntimeError where that process ends with a bug.
    """
    try:
        user = pwd.getpwnam(name) if os.geteuid() == 0 else None
    except KeyError:
        user = None
    if user is None:
        os.chdir("/")
        return work()
    sys.stdout.flush()
    sys.stderr.flush()
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.close(ours)
        _become(user, work, theirs)
    os.close(theirs)
    with open(ours, "rb") as answer:
        told = answer.read()
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        raise RuntimeError(f"the look as user {name} ended with status {status}")
    found = json.loads(told)
    if "problems" in found:
        raise ConfigError(found["file"], [Problem(*problem) for problem in found["problems"]])
    return found["result"]


def _become(user: pwd.struct_passwd, work: Callable[[], Json], answer: int) -> None:
    """Give up root for good, do the work, tell what came of it, and end."""
    status = 1
    try:
        os.setgroups(os.getgrouplist(user.pw_name, user.pw_gid))
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)
        os.chdir("/")
        with open(answer, "w") as told:
            try:
                found: dict[str, Any] = {"result": work()}
            except ConfigError as error:
                found = {"file": error.file, "problems": error.problems}
            json.dump(found, told)
        sys.stdout.flush()
        sys.stderr.flush()
        status = 0
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BaseException:  # whatever it is, two processes must not go on
        traceback.print_exc()
    finally:
        os._exit(status)
