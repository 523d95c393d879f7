"""``python -m activemri`` is the command ``activemri``."""

import sys

from activemri.cli import main

sys.exit(main())
