"""`python3 -m iotd` is the command `iotd`."""

import sys

from iotd.cli import main

sys.exit(main())
