"""Reading files that are one JSON value. Needs the standard library alone, because vLLM's environment imports it."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from data_process.limits import read_whole
from data_process.schema import DataError

BOM = b"\xef\xbb\xbf"


def read_json(path: Path, remedy: str) -> Any:
    """The value of a JSON file. DataError, which ends in `remedy`, for a file that is missing or not JSON."""
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            return json.loads(read_whole(file, path).removeprefix(BOM).decode("utf-8"))
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; {remedy}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; {remedy}") from error
    except (ValueError, RecursionError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not complete JSON ({error}); {remedy}") from error


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """The object of a JSON file. DataError, which ends in `remedy`, for a file without one."""
    found = read_json(path, remedy)
    if not isinstance(found, dict):
        raise DataError(f"{path} is no JSON object; {remedy}")
    return found
