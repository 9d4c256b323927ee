"""What decisions need to have measured: pass rates, lengths and domains, from files, banks, models and clusters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data_process import prompts as wording
from data_process.curate.clusters import cluster
from data_process.curate.domains import domain_prompt, read_domain
from data_process.curate.outcomes import Outcome, judge_texts, read_outcomes
from data_process.curate.pool import Item, Pool, each_problem
from data_process.judging import judge
from data_process.prompts import prompt_set
from data_process.schema import DataError, Problem
from selftrain.config import Config, load_config
from selftrain.curation.embeddings import embedding
from selftrain.curation.settings import CLUSTERS, MODEL, SAMPLES, CurateSettings, ModelSource
from selftrain.environment import prepare_environment
from selftrain.progress import Progress
from selftrain.runs.run_dir import run_config
from selftrain.runs.splits import canonical_images, image_store
from selftrain.sampling.bank import Bank
from selftrain.sampling.engine_factory import Opener, open_engine, sampling_params
from selftrain.sampling.sampler import Ask, Sampler
from selftrain.sampling.weights import sampler_of
from selftrain.scaling.targets import models_of

DOMAIN_TOKENS = 64  # of a reply that names a domain


class Measured:
    """Fills in the items of one pool. Nothing is measured twice."""

    def __init__(self, settings: CurateSettings, pool: Pool, progress: Progress, opener: Opener = open_engine) -> None:
        self._settings, self._pool, self._progress, self._opener = settings, pool, progress, opener
        self._outcomes: dict[str, Mapping[str, Outcome]] = {}

    def rates(self, items: Sequence[Item]) -> None:
        """Pass rates by every model. DataError if a model has samples of none of the problems."""
        models = self._settings.difficulty.models
        found = [self._samples(name, models[name], items) for name in models]
        for item in items:
            known = [outcomes.get(item.id) for outcomes in found]
            item.rates = tuple(None if outcome is None else outcome.rate for outcome in known)

    def lengths(self, items: Sequence[Item]) -> None:
        """Mean tokens of the first model's correct samples, if that is the length; others are read with the pool."""
        if self._settings.length.of == SAMPLES:
            name, source = next(iter(self._settings.difficulty.models.items()))
            outcomes = self._samples(name, source, items)
            for item in items:
                outcome = outcomes.get(item.id)
                item.length = None if outcome is None else outcome.length

    def domains(self, items: Sequence[Item]) -> None:
        """Domains that are not a field: clusters of texts, or a model's choice."""
        of = self._settings.domain
        if of.of == CLUSTERS:
            problems = {p.id: "\n".join((p.full_question, *p.choices)) for p in self._problems(items)}
            with self._progress.stage("clustering the questions", "texts"):
                labels = cluster(list(problems.values()), of.clusters, self._settings.seed, embedding(of.embedding))
            named = dict(zip(problems, labels, strict=True))
            for item in items:
                item.domain = named[item.id]
        elif of.of == MODEL:
            assert of.config is not None
            config = load_config(of.config, of.set)
            prompts = prompt_set(config.prompts)
            greedy = replace(sampling_params(config.sampling), temperature=0.0, top_p=1.0, top_k=0)
            params = replace(greedy, max_tokens=DOMAIN_TOKENS)
            problems_of_items = self._problems(items)
            asks = [
                Ask(p.id, domain_prompt(wording.body(p, prompts), of.labels), wording.images(p))
                for p in problems_of_items
            ]
            replies: dict[str, str] = {}

            def ask(sampler: Sampler) -> None:
                with self._progress.stage("asking for domains", "problems") as sampler.on_progress:
                    found = sampler.stream(asks, params, 1)
                replies.update({name: completions[0].text for name, completions in found})

            self._with_sampler(config, None, 0, problems_of_items, ask)
            for item in items:
                item.domain = read_domain(replies[item.id], of.labels)

    def _problems(self, items: Sequence[Item]) -> list[Problem]:
        return list(each_problem(self._pool.path, self._pool.root, {item.id for item in items}))

    def _samples(self, name: str, source: ModelSource, items: Sequence[Item]) -> Mapping[str, Outcome]:
        """A model's outcomes of all items that it has samples of."""
        if name not in self._outcomes:
            if source.file is not None:
                outcomes = read_outcomes(source.file)
                unjudged = {identifier for identifier, outcome in outcomes.items() if outcome.texts}
                if unjudged:
                    judge_texts(outcomes, each_problem(self._pool.path, self._pool.root, unjudged))
                    outcomes = {name: outcome for name, outcome in outcomes.items() if outcome.n}
                if not any(item.id in outcomes for item in items):
                    raise DataError(
                        f"{source.file} has samples of none of the {len(items):,} problems (its first id is "
                        f"{next(iter(outcomes), None)!r}, the pool's {items[0].id!r}); name the samples of this pool"
                    )
            else:
                outcomes = self._draw(name, source, self._problems(items))
            self._outcomes[name] = outcomes
        return self._outcomes[name]

    def _draw(self, name: str, source: ModelSource, problems: list[Problem]) -> dict[str, Outcome]:
        """Samples through the bank, judged. Problems whose image the model cannot take have none."""
        adapter, iteration = None, 0
        if source.run is not None:
            config = run_config(source.run)
            (model,) = models_of(source.run, [source.weights])
            adapter, iteration = model.weights, model.iteration
        else:
            config = load_config(source.config, source.set)
        params = sampling_params(config.sampling)
        if source.temperature is not None:
            params = replace(params, temperature=source.temperature)
        n = source.n or config.sampling.n
        prompts = prompt_set(config.prompts)
        usable, _, _ = image_store(config, self._pool.root).check(problems)
        asks = [Ask(p.id, wording.cot(p, prompts), wording.images(p)) for p in usable]
        outcomes: dict[str, Outcome] = {}

        def sample(sampler: Sampler) -> None:
            with self._progress.stage(f"sampling {name}", "samples") as sampler.on_progress:
                found = sampler.stream(asks, params, n)
            by_id = {problem.id: problem for problem in usable}
            for identifier, completions in found:
                outcome = outcomes.setdefault(identifier, Outcome())
                for c in completions:
                    verdict = judge(c.text, by_id[identifier], truncated=c.finish == "length")
                    outcome.add(verdict.correct, len(c.token_ids))

        self._with_sampler(config, adapter, iteration, usable, sample)
        return outcomes

    def _with_sampler(
        self,
        config: Config,
        adapter: Path | None,
        iteration: int,
        problems: Sequence[Problem],
        use: Callable[[Sampler], None],
    ) -> None:
        prepare_environment(config.engine.threads)
        picture = canonical_images(image_store(config, self._pool.root))
        with (
            Bank(config.bank) as bank,
            sampler_of(config, bank, picture, problems, adapter, iteration, self._opener) as sampler,
        ):
            use(sampler)
