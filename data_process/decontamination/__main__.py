"""`python -m data_process.decontamination`: see `guard`."""

import sys

from data_process.decontamination.guard import main

if __name__ == "__main__":
    sys.exit(main())
