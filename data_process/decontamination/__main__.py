"""`python -m data_process.decontamination`: see `guard`."""

from data_process.decontamination.guard import main

if __name__ == "__main__":
    raise SystemExit(main())
