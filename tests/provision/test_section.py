"""The section `provision`, and what it puts in the place of what the file says of the device."""

from __future__ import annotations

import pytest

from iotd.config import policy
from iotd.config.parse import claim, in_force, parse, uses
from iotd.config.settings import Settings
from iotd.errors import ConfigError
from iotd.host.identity import Given, Identity
from iotd.provision.section import Claim, Provision

HOST = Identity("pi", "0123456789abcdef", "10000000abcdef01")
NAMED = Given("pi-7", "/s/a.crt", "/s/a.key")
TEXT = """
thing: x
mqtt: {host: b, client_id: y, tls: {ca: /ca}}
publish: [{topic: 't/{thing}', every: 1s, payload: {a: 1}}]
subscribe: [{topic: 's/{thing}'}]
shadows: [{name: a}]
values: {v: {file: /v}}
wifi: {essid: [a]}
local: {publish: ['t/#']}
spool: {max_age: 1d}
provision: {template: fleet, parameters: {SerialNumber: '{cpu_serial}', Model: 'a {model}'}}
"""


def load(text: str, identity: Identity = HOST, given: Given | None = None) -> Settings:
    return parse(text, "iotd.yaml", identity, given=given).settings


def test_a_device_with_an_identity_is_that_whatever_the_file_says() -> None:
    settings = load(TEXT, given=NAMED)
    assert settings.mqtt.tls is not None and settings.mqtt.tls[:] == ("/ca", "/s/a.crt", "/s/a.key")
    assert (settings.thing, settings.is_named, settings.client_id) == ("pi-7", True, "y")
    assert settings.sections["publish"][0].topic == "t/pi-7" and in_force(settings) == settings
    assert settings.presence.topic == "MQTTServer/pi-7/will"


def test_a_device_without_one_has_the_claims_line_and_what_speaks_of_its_host() -> None:
    settings = load(TEXT)
    assert settings.mqtt.tls is not None and settings.mqtt.tls[1:] == Claim()
    assert settings.client_id == settings.thing == "claim-10000000abcdef01" and settings.mqtt.clean_session
    assert not settings.is_named and settings.presence.topic, "it is checked whole"
    force = in_force(settings)
    assert sorted(force.sections) == ["local", "provision", "publish", "spool", "values", "wifi"]
    assert (force.presence.topic, force.sections["publish"], force.sections["local"].publish) == ("", (), ())
    assert force.sections["spool"].max_age_s == 86400.0


def test_a_claims_line_has_a_name_of_its_own_on_every_machine() -> None:
    assert load(TEXT.replace("{cpu_serial}", "1"), Identity("pi", "01 23")).client_id == "claim-01_23"
    assert load(TEXT.replace("{cpu_serial}", "1"), Identity("localhost", "")).client_id == "claim-localhost"


def test_what_is_written_is_read() -> None:
    settings = load("mqtt: {host: b, tls: {}}\nprovision: {template: t, claim: {cert: /c, key: /k}, key: rsa-2048, "
                    "renew: 0s, renew_after: 365d}")
    assert settings.sections["provision"] == Provision("t", Claim("/c", "/k"), {}, "rsa-2048", 0.0, 365 * 86400.0)


@pytest.mark.parametrize("line, words", [
    ("provision: {}", "provision.template: is required"),
    ("provision: {template: 'a b'}", "provision.template: expected the name of a provisioning template"),
    ("provision: {template: " + "x" * 37 + "}", "provision.template: expected"),
    ("provision: {template: t, key: rsa-1024}", "provision.key: expected ec-p256 or rsa-2048"),
    ("provision: {template: t, parameters: {a: 1}}", "provision.parameters.a: expected text"),
    ("provision: {template: t, parameters: {a: '{thing}'}}", "provision.parameters.a: {thing} has no value here"),
    ("provision: {template: t, parameters: [a]}", "provision.parameters: expected a mapping"),
    ("provision: {template: t, claim: {cert: c}}", "provision.claim.cert: expected a path from /"),
    ("provision: {template: t, renew: 30}", "provision.renew: expected a duration with its unit"),
])
def test_what_is_wrong_is_told(line: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(f"mqtt: {{host: b, tls: {{}}}}\n{line}")
    assert words in error.value.lines()[0]


def test_a_machine_without_a_serial_is_told_so_where_the_template_asks_for_it() -> None:
    with pytest.raises(ConfigError, match="1 problem") as error:
        load(TEXT, Identity("localhost", "01"))
    assert "provision.parameters.SerialNumber: this machine tells no serial number" in error.value.lines()[0]


def test_it_needs_tls() -> None:
    with pytest.raises(ConfigError) as error:
        load("mqtt: {host: b}\nprovision: {template: t}")
    assert "provision: needs mqtt.tls" in error.value.lines()[0]


def test_the_policies_allow_the_claim_and_the_renewal_the_two_requests_and_their_answers() -> None:
    settings = parse(TEXT, "iotd.yaml", policy.ANY_HOST, policy.THING).settings
    assert settings.is_named and settings.thing == policy.THING
    claimed = claim(settings)
    assert claimed is not None and claimed.client_id == "claim-" and set(claimed.uses) <= set(uses(settings))
    assert [use.verb for use in claimed.uses] == ["publish"] * 2 + ["subscribe"] * 4
