"""`python -m selftrain VERB`."""

import sys

from selftrain.cli import main

if __name__ == "__main__":
    sys.exit(main())
