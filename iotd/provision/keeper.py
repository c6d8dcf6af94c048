"""The identity on the disk, in two places that take turns: one has the pair in force, in the other the next one grows.

`identity.json` says who the device is and in which place its pair lies; it is written last, in one step, so that a
power cut leaves the old identity or the new one. While a new one has yet to be proven, what was before is in it too.
`pending.json` is what registers a certificate that is made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from iotd.host.files import Files
from iotd.host.identity import GIVEN, IDENTITY, PLACES
from iotd.provision.attempt import Pending
from iotd.provision.renewal import Life, Moment, described
from iotd.vocabulary import Json

PENDING = "pending.json"
MAX_CONFIGURATION = 4096  # characters of what the template tells the device


class Keeper:
    """What is kept, below the state directory. Whatever writes raises OSError, and then nothing has changed."""

    def __init__(self, files: Files, state: Path) -> None:
        self._files = files
        self._folder = state / GIVEN
        found = files.read_json(self._folder / IDENTITY)
        self._identity: dict[str, Json] = found if isinstance(found, dict) else {}

    @property
    def thing(self) -> str:
        """The thing that the device is, nothing for none."""
        return str(self._identity.get("thing") or "")

    @property
    def life(self) -> Life | None:
        """When the certificate in force begins and ends."""
        try:
            return described(self._identity)
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def attempted(self) -> Moment | None:
        """When it was last tried to renew the certificate."""
        return Moment.of(self._identity.get("attempted"))

    @property
    def on_trial(self) -> bool:
        """Whether the identity has yet to be proven, and there is an earlier one to go back to."""
        return isinstance(self._identity.get("before"), dict)

    @property
    def again(self) -> bool:
        """Whether the claim is to be used although there is an identity."""
        return self._identity.get("again") is True

    def pending(self, here: Moment, now: float) -> Pending | None:
        """Return the certificate that waits to be registered."""
        body = self._pending()
        made = Moment.of(body.get("made"))
        if not body or made is None or not self.key():
            return None
        return Pending(str(body.get("token")), here.since(made), now)

    def key(self) -> str:
        """Return the key that grows, nothing for none."""
        try:
            return self._files.read_text(self._path(self._next, "key"))
        except (OSError, ValueError):
            return ""

    def keep_key(self, pem: str) -> None:
        """Keep a new key, beside that in force; what was pending is over."""
        self._files.make_folder(self._folder)
        self._files.remove(self._folder / PENDING)
        self._files.write_text(self._path(self._next, "key"), pem, durable=True)

    def keep_certificate(self, pem: str, token: str, life: Life, here: Moment) -> None:
        """Keep the certificate of the key, then its token."""
        self._files.write_text(self._path(self._next, "crt"), pem, durable=True)
        self._write(PENDING, {"token": token, "place": self._next, "made": here._asdict(), **life._asdict()})

    def become(self, thing: str, configuration: Mapping[str, Json]) -> None:
        """Be this thing, with the pair that has grown."""
        body = self._pending()
        told = json.dumps(configuration, ensure_ascii=False)
        identity = {"thing": thing, "place": self._next, "begins_at": body.get("begins_at"),
                    "ends_at": body.get("ends_at"), "attempted": self._identity.get("attempted"),
                    "configuration": configuration if len(told) <= MAX_CONFIGURATION else {}}
        if self._identity:
            identity["before"] = {key: value for key, value in self._identity.items() if key not in ("before", "again")}
        self._put(identity)
        self._files.remove(self._folder / PENDING)

    def prove(self) -> None:
        """The identity is a good one: what was before goes."""
        self._put({key: value for key, value in self._identity.items() if key != "before"})
        self.tidy()

    def fall_back(self) -> None:
        """Be again what was before."""
        before: dict[str, Any] = self._identity["before"]
        self._put({**before, "attempted": self._identity.get("attempted")})
        self.tidy()

    def begin(self, here: Moment) -> None:
        """Note that it is tried now to renew the certificate."""
        self._put({**self._identity, "attempted": here._asdict()})

    def use_claim(self, again: bool) -> None:
        """Use the claim although there is an identity, or no longer."""
        if self._identity and self.again != again:
            self._put({**{key: value for key, value in self._identity.items() if key != "again"},
                       **({"again": True} if again else {})})

    def drop(self) -> None:
        """What has grown is given up."""
        self._files.remove(self._folder / PENDING)
        self.tidy()

    def tidy(self) -> None:
        """Remove what is nobody's: a power cut may have brought it back."""
        if not self._pending():
            self._files.remove(self._folder / PENDING)
        before = self._identity.get("before")
        used = {self._identity.get("place"), before.get("place") if isinstance(before, dict) else None,
                self._pending().get("place")}
        for place in PLACES:
            if place not in used:
                for kind in ("key", "crt"):
                    self._files.remove(self._path(place, kind))

    @property
    def _next(self) -> str:
        return PLACES[1] if self._identity.get("place") == PLACES[0] else PLACES[0]

    def _pending(self) -> dict[str, Json]:
        body = self._files.read_json(self._folder / PENDING)
        return body if isinstance(body, dict) and body.get("place") == self._next else {}

    def _path(self, place: str, kind: str) -> Path:
        return self._folder / f"{place}.{kind}"

    def _put(self, identity: dict[str, Json]) -> None:
        self._write(IDENTITY, identity)
        self._identity = identity

    def _write(self, name: str, body: Mapping[str, Json]) -> None:
        self._files.write_text(self._folder / name, json.dumps(body, ensure_ascii=False), durable=True)


def problem_with(keep: Callable[[], None]) -> str:
    """Keep something; return why that cannot be, nothing where it is."""
    try:
        keep()
    except OSError as error:
        return f"the identity cannot be kept: {error.strerror}"
    return ""
