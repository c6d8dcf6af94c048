"""A value is what PyYAML takes it for, and in quotes it is the text."""

from __future__ import annotations

import pytest
import yaml

from iotd.config.document import Cursor, Document, Wrong, compose
from iotd.vocabulary import Json

WORDS = ["", "y", "n", "null", "Null", "NULL", "nULL", "~", "<<", "=", "!", ".inf", "-.inf", ".nan", "1.5e+3", "0x1d",
         "0b11d", "1d", "64MB", "30s", "8883", "127.0.0.1", "1.2.3", "0", "00", "07", "08", "1:30", "1_000",
         "2001-12-14", "2001-12-14t21:59:43.10-05:00", "2001-12-14 21:59:43.1 Z", "२", "3०", "é", "ヨシ", "yes "]
BOOLEANS = [form for word in ("yes", "no", "on", "off", "true", "false", "y", "n", "trues")
            for form in (word, word.capitalize(), word.upper(), word[0].upper() + word[1:].upper(), word + "s")]


def value_of(written: str) -> Json:
    """Return what stands under a key with this behind it."""
    root = compose(f"key: {written}")
    assert root is not None
    [(_, child)] = Cursor(root, "", Document()).entries()
    return child.scalar()


@pytest.mark.parametrize("word", dict.fromkeys(WORDS + BOOLEANS))
def test_a_word_is_what_yaml_takes_it_for(word: str) -> None:
    try:
        expected = yaml.load(f"key: {word}", yaml.CSafeLoader)["key"]
    except yaml.constructor.ConstructorError:
        with pytest.raises(Wrong, match="put it in quotes"):
            value_of(word)
    else:
        found = value_of(word)
        assert type(found) is type(expected) and repr(found) == repr(expected)


@pytest.mark.parametrize("word", dict.fromkeys(WORDS + BOOLEANS))
@pytest.mark.parametrize("quotes", ["'", '"'])
def test_in_quotes_it_is_the_text(word: str, quotes: str) -> None:
    assert value_of(f"{quotes}{word}{quotes}") == word
