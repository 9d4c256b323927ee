"""The loop's front door: `python run.py --iters 3`. See `python run.py --help`."""

import sys

from selftrain.cli.run import run_main

if __name__ == "__main__":
    sys.exit(run_main())
