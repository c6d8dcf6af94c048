"""Where `script/bootstrap aws` puts what checks docs/aws."""

import os
from pathlib import Path

VENV = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "iotd/aws"
