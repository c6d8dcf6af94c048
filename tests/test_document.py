"""A scalar is what PyYAML takes it for, whichever way that was found out."""

from __future__ import annotations

from itertools import chain, product
from typing import Iterator

import pytest
import yaml

from iotd.document import Loader

LETTERS = "019xbeadsZ.-_: +"
WORDS = ["", "y", "n", "null", "Null", "NULL", "nULL", "~", "<<", "=", "!", ".inf", "-.inf", ".nan", "1.5e+3", "0x1d",
         "0b11d", "1d", "64MB", "30s", "8883", "127.0.0.1", "1.2.3", "0", "00", "07", "08", "1:30", "1_000",
         "2001-12-14", "2001-12-14t21:59:43.10-05:00", "2001-12-14 21:59:43.1 Z", "२", "3०", "é", "ヨシ", "yes "]
BOOLEANS = [form for word in ("yes", "no", "on", "off", "true", "false", "y", "n", "trues")
            for form in (word, word.capitalize(), word.upper(), word[0].upper() + word[1:].upper(), word + "s")]


def texts(longest: int) -> Iterator[str]:
    return chain.from_iterable(map("".join, product(LETTERS, repeat=length)) for length in range(1, longest + 1))


@pytest.mark.parametrize("values", [WORDS, BOOLEANS, list(texts(3))], ids=["words", "booleans", "all short texts"])
@pytest.mark.parametrize("implicit", [(True, False), (False, True), (False, False)])
def test_a_scalar_is_of_the_kind_that_yaml_gives_it(values: list[str], implicit: tuple[bool, bool]) -> None:
    ours, theirs = Loader(""), yaml.CSafeLoader("")
    for value in values:
        found, expected = (reader.resolve(yaml.ScalarNode, value, implicit) for reader in (ours, theirs))
        assert found == expected, value
