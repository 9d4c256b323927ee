"""Curates a pool: reads it, decides, and writes the folder, all or nothing. Makes one again from its manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from data_process.curate.choose import Measures, choose
from data_process.curate.contamination import TestSets, leaks, load_tests, suspicion
from data_process.curate.folder import About, both, write_card, write_folder
from data_process.curate.manifest import (
    Manifest,
    check_decisions,
    check_files,
    read_manifest,
    recall,
    write_manifest,
)
from data_process.curate.pool import Pool, Reading, file_digest, read_pool, words_of
from data_process.outputs import check_outputs
from data_process.prepare.folder import new_folder
from data_process.schema import DataError
from selftrain import __version__
from selftrain.config import build_section
from selftrain.curation.measured import Measured
from selftrain.curation.page import write_page
from selftrain.curation.settings import CLUSTERS, MODEL, SAMPLES, CurateSettings
from selftrain.progress import Progress
from selftrain.sampling.engine_factory import Opener, open_engine


def curate(
    pool: Path,
    settings: CurateSettings,
    out: Path,
    *,
    replace: bool = False,
    link: bool = False,
    progress: Progress | None = None,
    opener: Opener = open_engine,
) -> dict[str, Any]:
    """Writes the folder `out` with what the recipe chooses of `pool`, a data folder or a file; returns the card.

    DataError, ConfigError or EngineError; nothing is written then. Samples that were drawn stay in the bank.
    """
    return _curate(_train_file(pool), settings, out, replace, link, progress or Progress(), opener, None)


def curate_again(
    folder: Path, out: Path, *, replace: bool = False, link: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """Writes `out` as `folder` was made, from its manifest and the pool alone; returns the card.

    Lengths, domains and pass rates are taken from the manifest, and every decision is made again and compared. Raises
    DataError if the pool changed, or if a decision is another one.
    """
    manifest = read_manifest(folder)
    check_files(manifest)
    settings = build_section(CurateSettings, manifest.content["recipe"], str(folder))
    pool = Path(manifest.content["pool"])
    return _curate(pool, settings, out, replace, link, progress or Progress(), open_engine, manifest)


def _train_file(pool: Path) -> Path:
    if pool.is_dir():
        pool = pool / "train.jsonl"
    if not pool.is_file():
        raise DataError(f"{pool} does not exist; name a data folder with train.jsonl, or a JSONL file of problems")
    return pool


def _curate(
    path: Path,
    settings: CurateSettings,
    out: Path,
    replace: bool,
    link: bool,
    progress: Progress,
    opener: Opener,
    manifest: Manifest | None,
) -> dict[str, Any]:
    plan = settings.plan()
    check_outputs({"--out": out}, [path, path.parent if path.name == "train.jsonl" else None])
    with new_folder(out, replace=replace) as root:
        tests = None
        if "contamination" in settings.filters:
            rules = settings.contamination
            tests = load_tests(path.parent, rules.splits, rules.files, rules.allow_sources)
        with progress.stage(f"reading {path}", "problems") as update:
            pool = read_pool(path, path.parent, _reading(settings, tests), lambda n: update(n, n))
        measures = _measures(settings, pool, tests, progress, opener)
        if manifest is not None:
            recall(pool.items, manifest.decisions, plan.models)
            nothing: Callable[[Any], None] = lambda items: None  # noqa: E731
            measures = Measures(nothing, nothing, nothing, measures.leaks)
        chosen = choose(pool.items, plan, measures)
        if manifest is not None:
            check_decisions(pool.items, manifest.decisions, plan.models)
        about = About(settings.policy, settings.seed, _length_name(settings))
        card = write_folder(root, pool, chosen, about, link=link)
        lengths = {
            name: [item.length for item in items if item.length is not None] for name, items in both(pool.items).items()
        }
        write_page(root, f"{card['source']}, curated", card, lengths)
        content = {
            "version": __version__,
            "pool": str(path),
            "files": manifest.content["files"] if manifest else _files(path, pool, settings),
            "recipe": settings.model_dump(mode="json"),
            "steps": [step.to_json() for step in chosen.steps],
            "remarks": chosen.remarks,
            "train": {name: card["splits"]["train"][name] for name in ("items", "digest")},
        }
        write_manifest(root, content, pool.items, plan.models)
        write_card(root, card)
    return card


def _reading(settings: CurateSettings, tests: TestSets | None) -> Reading:
    rules, length, domain = settings.rules(), settings.length, settings.domain.of
    return Reading(
        rules=rules,
        images=("quality" in settings.filters and rules.images) or "duplicates" in settings.filters,
        length=None if length.of == SAMPLES else length.of,
        count=_counter(length.tokenizer),
        domain=None if domain in (CLUSTERS, MODEL) else domain,
        judge_traces_of=frozenset(origin for rule in settings.direct for origin in rule.origins),
        suspicious=suspicion(tests),
    )


def _counter(tokenizer: Path | None) -> Callable[[str], int]:
    """Counts words and signs, or the tokens of a checkpoint's tokenizer."""
    if tokenizer is None:
        return words_of
    from transformers import AutoTokenizer

    try:
        loaded: Any = AutoTokenizer.from_pretrained(tokenizer, local_files_only=True)
    except (OSError, ValueError) as error:
        raise DataError(f"length.tokenizer {tokenizer} cannot be loaded ({error}); name a checkpoint folder") from error
    return lambda text: len(loaded(text, add_special_tokens=False)["input_ids"])


def _length_name(settings: CurateSettings) -> str:
    length = settings.length
    if length.of == SAMPLES:
        return "Tokens of correct samples"
    unit = "Tokens" if length.tokenizer else "Words and signs"
    return f"{unit} of the question" if length.of == "question" else f"Length by {length.of}"


def _measures(
    settings: CurateSettings, pool: Pool, tests: TestSets | None, progress: Progress, opener: Opener
) -> Measures:
    measured = Measured(settings, pool, progress, opener)
    doubtful = True  # whether a subset of what was looked at can leak where the whole does not

    def leaking(items: Any) -> Mapping[str, str]:
        nonlocal doubtful
        assert tests is not None, "contamination is among the filters"
        if not doubtful:
            return {}
        with progress.stage("looking for test problems", "problems"):
            found, doubtful = leaks(items, pool, tests)
        return found

    return Measures(measured.rates, measured.lengths, measured.domains, leaking)


def _files(path: Path, pool: Pool, settings: CurateSettings) -> dict[str, str]:
    """Digests of the files that decisions depend on."""
    found = {str(path): pool.digest}
    used = [path.with_name(f"{name}.jsonl") for name in settings.contamination.splits]
    used += [file / "test.jsonl" if file.is_dir() else file for file in settings.contamination.files]
    found |= {str(file): file_digest(file) for file in used if file.is_file()}
    return found
