"""The entry of the unit `iotd-recover@VERB.service`."""

import sys

from iotd.helper.recover import main

sys.exit(main(sys.argv[1]))
