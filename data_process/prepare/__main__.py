"""`python -m data_process.prepare`: see `command`."""

from data_process.prepare.command import main

if __name__ == "__main__":
    raise SystemExit(main())
