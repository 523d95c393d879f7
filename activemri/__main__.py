"""``python -m activemri`` is the command ``activemri``."""

import sys

from activemri.cli import main

if __name__ == "__main__":
    sys.exit(main())
