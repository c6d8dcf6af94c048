"""The entry of the units `iotd-recover@VERB.service` (VERB) and `iotd-job@VERB.service` (job VERB)."""

import sys

from iotd.helper import job, recover

if sys.argv[1] == "job":
    sys.exit(job.main(sys.argv[2]))
sys.exit(recover.main(sys.argv[1]))
