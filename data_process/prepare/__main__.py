"""`python -m data_process.prepare`: see `command`."""

import sys

from data_process.prepare.command import main

if __name__ == "__main__":
    sys.exit(main())
