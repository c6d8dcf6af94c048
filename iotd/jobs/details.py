"""What is told of an execution, within the service's rules for statusDetails. Pure.

At most ten pairs; a value has 1 to 1,024 characters and none of Unicode's category "other", so no line end.
Source: AWS IoT API reference, "UpdateJobExecution": `[^\\p{C}]+`.
"""

import unicodedata
from collections.abc import Mapping

MAX_PAIRS, MAX_CHARACTERS = 10, 1024
LINE_END = " / "
FROM_THE_END = ("stderr", "stdout", "output")  # of which the end says more than the beginning


def fit(details: Mapping[str, object]) -> dict[str, str]:
    """Return the details as texts that the service takes, without those that say nothing."""
    found: dict[str, str] = {}
    for key, value in details.items():
        text = _flat(str(value))
        if len(text) > MAX_CHARACTERS:
            text = f"…{text[1 - MAX_CHARACTERS:]}" if key in FROM_THE_END else f"{text[:MAX_CHARACTERS - 1]}…"
        if text and value is not None and len(found) < MAX_PAIRS:
            found[key] = text
    return found


def _flat(text: str) -> str:
    lines = (" ".join(line.replace("\t", " ").split(" ")).strip() for line in text.splitlines())
    joined = LINE_END.join(filter(None, lines))
    return "".join("�" if unicodedata.category(character)[0] == "C" else character for character in joined).strip()
