"""Exports an iteration of a run: weights with their card, and the rows that it was trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_process.outputs import check_outputs
from selftrain.export import hub
from selftrain.export.cards import model_card
from selftrain.export.rows import write_rows
from selftrain.export.source import check_base, check_free, exported, holds, whole_folder
from selftrain.export.weights import write_adapter, write_merged
from selftrain.files import write_whole
from selftrain.progress import Progress


@dataclass(frozen=True)
class Request:
    """What the user asks for."""

    run: Path
    out: Path
    merged: bool = False
    iteration: int | None = None  # None: the accepted one
    base: Path | None = None  # None: where the run found it
    base_name: str | None = None  # None: the name of its folder
    data: Path | None = None
    push: str | None = None  # repository, "owner/name"
    overwrite: bool = False


def export_run(request: Request, progress: Progress) -> Iterator[str]:
    """Write and, if asked for, upload; yields a line for each thing that is done.

    Everything that can be refused is refused before the first file. A folder that already holds just this export is
    kept, so the same command uploads what it could not upload before. Raises what `exported` and `check_push` raise,
    EngineError for an adapter that does not fit, and PushError.
    """
    token = hub.check_push(request.push) if request.push else ""
    found = exported(request.run, request.iteration, request.base)
    base_name = request.base_name or found.base.name
    names = {"base_name": base_name, "push": request.push}
    merged = request.merged or found.is_whole
    identity = found.identity() | names | {"weights": "merged" if merged else "adapter"}
    data_identity = found.identity() | {"rows": True}
    check_outputs(
        {"--out": request.out, "--data": request.data},
        [found.base, found.config.bank, found.config.data.folder],
        runs=[request.run],
    )
    ready = not request.overwrite and holds(request.out, identity)
    data_ready = request.data is not None and not request.overwrite and holds(request.data, data_identity)
    if not ready:
        check_free(request.out, request.overwrite)
    if request.data is not None and not data_ready:
        check_free(request.data, request.overwrite)
    if not ready:
        if merged and not found.is_whole:
            with progress.stage("checking the base model", "files"):
                check_base(found)
        with progress.stage("writing weights", "files"), whole_folder(request.out, identity) as folder:
            if merged:
                write_merged(found, folder)
            else:
                write_adapter(found, folder, base_name)
            card = model_card(
                found, merged=merged, name=request.push or request.out.name, base_name=base_name,
                data_repository=f"{request.push}-data" if request.push and request.data else None,
            )  # fmt: skip
            write_whole(folder / "README.md", card)
    kind = "weights" if found.is_whole else "merged weights" if merged else "adapter"
    yield f"{request.out}: {kind} of iteration {found.iteration}{', already there' if ready else ''}"
    if request.data is not None:
        if not data_ready:
            with progress.stage("writing training rows", "rows"), whole_folder(request.data, data_identity) as folder:
                write_rows(found, folder)
        yield f"{request.data}: training rows{', already there' if data_ready else ''}"
    if request.push:
        yield hub.push(request.out, request.push, "model", token)
        if request.data is not None:
            yield hub.push(request.data, f"{request.push}-data", "dataset", token)
