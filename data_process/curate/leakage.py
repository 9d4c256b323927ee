"""The former name of the leakage guard's command, `python -m data_process.curate.leakage`."""

import sys

from data_process.decontamination.guard import main

if __name__ == "__main__":
    print("note: this command is now `python -m data_process.decontamination`", file=sys.stderr)
    raise SystemExit(main())
