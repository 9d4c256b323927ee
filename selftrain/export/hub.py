"""Uploads an exported folder to a hub, with a token from the environment and never from a file or an argument."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal

from selftrain.export.source import ExportError, PushError

TOKEN = "HF_TOKEN"  # environment variable
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def check_push(repository: str) -> str:
    """The token, before any work is done. ExportError without one, or for a name that is no OWNER/NAME."""
    if not _REPOSITORY.fullmatch(repository):
        raise ExportError(f"{repository!r} names no repository; write --push OWNER/NAME")
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        raise ExportError(
            f"--push needs a token that may write to {repository}: set the environment variable {TOKEN}, and run the "
            "same command again"
        )
    return token


def push(folder: Path, repository: str, kind: Literal["model", "dataset"], token: str) -> str:
    """Upload a folder into a repository, made private where there is none; returns its address. PushError."""
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi(token=token)
    try:
        made = api.create_repo(repository, repo_type=kind, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, repo_type=kind, commit_message=f"selftrain export of {folder.name}"
        )
    except (HfHubHTTPError, HFValidationError, httpx.HTTPError, OSError) as error:
        first = (str(error).strip().splitlines() or [repr(error)])[0]
        raise PushError(
            f"{repository}: {first}; {folder} is whole, and the same command uploads it without making it again"
        ) from error
    return str(made)
