"""Outside traces: solutions that other models, people or earlier runs wrote, as training rows."""

from typing import Literal

TraceKind = Literal["rows", "sharegpt", "cot", "thinking"]  # `forms` says what each is
