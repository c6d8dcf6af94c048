"""Slips in the rules that no other test catches: a short life goes well without each of them, and not with it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sim.life import live
from tests.sim.mutants import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]
SCRIPT = """\
from tests.sim.life import live
from tests.sim.mutants import MUTANTS
[plan] = [mutant.plan for mutant in MUTANTS if mutant.name == {name!r}]
print(*(finding.invariant for finding in live(plan).news))
"""


@pytest.mark.parametrize("mutant", [pytest.param(mutant, id=mutant.name) for mutant in MUTANTS])
def test_a_life_that_goes_well_does_not_with_the_slip(mutant: Mutant, tmp_path: Path) -> None:
    assert live(mutant.plan).news == ()
    shutil.copytree(ROOT / "iotd", tmp_path / "iotd", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    module = tmp_path / mutant.module
    source = module.read_text("utf-8")
    assert source.count(mutant.text) == 1, (
        f"the text of the mutant {mutant.name!r} has to stand in {mutant.module} once; bring the mutant up to date")
    module.write_text(source.replace(mutant.text, mutant.becomes), "utf-8")
    lived = subprocess.run([sys.executable, "-c", SCRIPT.format(name=mutant.name)], cwd=tmp_path, capture_output=True,
                           text=True, timeout=120)
    assert lived.stdout.split() == [mutant.invariant], lived.stderr
