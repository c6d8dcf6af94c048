"""What is deferred works when it is used, and not before."""

from __future__ import annotations

import re
import sys

import pytest

from iotd.deferred import deferred, deferred_patterns


def test_a_module_is_loaded_when_a_function_of_it_is_called() -> None:
    assert "colorsys" not in sys.modules
    with deferred("colorsys"):
        import colorsys
        from colorsys import rgb_to_hls
    assert "colorsys" not in sys.modules
    assert colorsys.hls_to_rgb(*rgb_to_hls(1.0, 0.0, 0.0)) == (1.0, 0.0, 0.0)
    assert "colorsys" in sys.modules


def test_a_pattern_is_compiled_at_its_first_use() -> None:
    with deferred_patterns():
        good, broken = re.compile("a(b)", re.IGNORECASE), re.compile("(")
    assert isinstance(re.compile("x"), re.Pattern)
    found = good.match("AB")
    assert found is not None and found[1] == "B" and good.pattern == "a(b)"
    with pytest.raises(re.error):
        broken.search("")
