"""``python -m piqi_runtime.ctl`` is ``piqictl``."""

import sys

from piqi_runtime.ctl.cli import main

sys.exit(main())
