"""What the YAML may say of batches, packing and times."""

from __future__ import annotations

import pytest

from iotd.config.parse import parse
from iotd.errors import ConfigError
from iotd.host.identity import Identity
from iotd.outgoing.section import Batch, Publish

IDENTITY = Identity("host", "0123456789abcdef0123456789abcdef")


def read(entry: str, more: str = "") -> Publish:
    text = f"mqtt: {{host: localhost}}\n{more}publish:\n  - topic: a\n    every: 10s\n    payload: {{a: 1}}\n{entry}"
    found: Publish = parse(text, "f", IDENTITY).settings.sections["publish"][0]
    return found


def test_a_batch_and_packing_are_read() -> None:
    entry = read("    retain: false\n    batch: {count: 20, within: 10m}\n    encoding: gzip\n")
    assert (entry.batch, entry.gzip) == (Batch(20, 600.0), True)
    assert (read("").batch, read("    encoding: json\n").gzip) == (None, False)


@pytest.mark.parametrize("entry, more, problem", [
    ("    encoding: gzip\n", "", "publish[0].retain: is true, as always where it is not written"),
    ("    encoding: zip\n", "", "publish[0].encoding: expected json or gzip, found text 'zip'"),
    ("    batch: {count: 1, within: 10m}\n", "", "publish[0].batch.count: expected a whole number from 2 to 1000"),
    ("    batch: {count: 5}\n", "", "publish[0].batch.within: is required"),
    ("    batch: {within: 5m}\n", "", "publish[0].batch.count: is required"),
    ("    batch: 20\n", "", "publish[0].batch: expected a mapping of keys"),
    ("    batch: {count: 5, within: 5s}\n", "", "publish[0].batch.within: 5s is below publish[0].every, 10s"),
    ("    batch: {count: 5, within: 5m}\n", "spool: {durability: strict}\n",
     "publish[0].batch: is collected in memory"),
    ("", "spool: {timestamps: right}\n", "spool.timestamps: expected correct or keep"),
])
def test_what_cannot_be_is_named_with_what_would_be_right(entry: str, more: str, problem: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(entry, more)
    [line] = error.value.lines()
    assert problem in line


def test_a_batch_that_aws_would_refuse_is_named_before_it_is_sent() -> None:
    entry = f"    batch: {{count: 1000, within: 1d}}\n    retain: false\n    payload: {{a: {'x' * 200}}}\n"
    text = f"mqtt: {{host: localhost, limits: aws}}\npublish:\n  - topic: a\n    every: 10s\n{entry}"
    with pytest.raises(ConfigError, match="1 problem") as error:
        parse(text, "f", IDENTITY)
    assert "publish[0].batch: the payload has " in error.value.lines()[0]
