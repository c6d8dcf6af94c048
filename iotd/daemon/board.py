"""The board that a thing runs on, remembered in the state directory: a card that moves to another one takes the name of
the thing along, and two boards with the same name end each other's line.
"""

from __future__ import annotations

from iotd.daemon.world import World
from iotd.host import log
from iotd.vocabulary import Json

FILE = "board.json"


def recognised(world: World, thing: str) -> dict[str, Json]:
    """Remember that this thing runs on this board, and name one that it has moved from; return what is known of both.

    Nothing is known of a board without a serial number.
    """
    serial, file = world.identity.cpu_serial, world.places.state / FILE
    if not serial:
        return {}
    known = world.files.read_json(file)
    known = known if isinstance(known, dict) and known.get("thing") == thing else {}
    before = known.get("cpu_serial")
    if before == serial:
        return {name: str(known[name])[:64] for name in ("cpu_serial", "moved_from") if known.get(name)}
    found: dict[str, Json] = {"cpu_serial": serial}
    if before:
        found["moved_from"] = str(before)[:64]
        log.warning("identity.moved", "this card has run on another board under the same thing; were it a copy, both "
                                      "would end each other's line", thing=thing, **found)
    world.files.keep(file, {"thing": thing, **found}, durable=True)
    return found
