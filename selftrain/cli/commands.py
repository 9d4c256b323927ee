"""What a command's module is given to declare its arguments."""

from __future__ import annotations

import argparse
from typing import TypeAlias

# Commands add their parser to it, and set `action`: a function of the parsed arguments that returns the exit status.
Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
