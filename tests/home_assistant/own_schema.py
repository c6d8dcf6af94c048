"""Hold an announcement against Home Assistant's own schema, by a Python that has PyPI's homeassistant (3.13, 600 MB):

    /usr/bin/python3 -m tests.home_assistant.own_schema --announce |
        SOMEWHERE/bin/python tests/home_assistant/own_schema.py

The first prints that of the tests' configuration; the second ends with 1 where Home Assistant refuses it or takes a key
away. `hub.py` holds the same from the documentation, and is what every run of the tests asks.
"""

from __future__ import annotations

import asyncio
import json
import sys


async def judge(text: str) -> list[str]:
    """Return what Home Assistant does not take, a sentence each."""
    from homeassistant import const, core
    from homeassistant.components.mqtt import binary_sensor, discovery, sensor

    print(f"Home Assistant {const.__version__}")
    payload = discovery._parse_device_payload(core.HomeAssistant("/"), text, "device", None)
    if not payload:
        return ["the device is refused"]
    found = []
    for name, component in payload["components"].items():
        config = discovery.MQTTDiscoveryPayload(component)
        platform = {"sensor": sensor, "binary_sensor": binary_sensor}[config.pop("platform")]
        if config:
            discovery._merge_common_device_options(config, payload)
            config.update(device=payload["device"], origin=payload["origin"])
            taken = platform.DISCOVERY_SCHEMA(config)
            found += [f"{name}: {key} is taken away" for key in config.keys() - taken.keys()]
    print(f"{len(payload['components'])} components")
    return found


def main() -> int:
    """Print the tests' announcement, or judge the one on stdin; return the exit status."""
    if sys.argv[1:] == ["--announce"]:
        from iotd.home_assistant import discovery
        from tests.home_assistant.test_discovery import BOARD, settings

        print(json.dumps(discovery.announcement(settings(), BOARD), ensure_ascii=False))
        return 0
    found = asyncio.run(judge(sys.stdin.read()))
    print("\n".join(found) or "taken as it is")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
