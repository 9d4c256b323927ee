"""Strategies of test time: think longer, sample more and vote, choose among own answers, refine, or combine them.

Every strategy takes (problems, sampler, plan) and gives one `Outcome` for each problem, in order: its credit, what was
chosen, and what that cost. All read the same samples through the bank, so a table of them compares strategies and not
draws.

How tokens are counted
  - Generated tokens are all that decoding took: what the model wrote, end of turn included; what a budget forced into
    it, since a forced token takes a step like any other; and what a budget took out again (`ForcingRecord.discarded`).
  - Prompt tokens include the chat template and the image's tokens. The prompt of N samples counts once: it is
    prefilled once and its cache is shared. Every other prompt counts in full, once for each call: a selector's with
    all its candidates, in each group of a tournament and each order of a permutation vote; a refinement's in each
    round. That a prefix (image and question) might be cached across prompts is not assumed.
  - A strategy is charged what one question costs when it is run by itself. What the bank already held was paid for by
    someone and counts; what was drawn only to average (a larger pool, more subsets) does not: with a pool larger than n
    the cost is that of n samples on average, n / pool of all generated tokens and one prompt.
  - A reward model reads every response once for each step. Steps that several samples share count for each of them.
  - A vote costs the n samples; so do best-of-N and pass@N. mean@1 costs one sample. A selection among a single
    candidate (n = 1, or one distinct answer) needs no call and costs none.
  - Rejection sampling pays for every try, a rejected one up to limit + 1 tokens.
`score(outcomes).tokens_per_problem` holds the means over problems; its total is the x-axis of every figure.
"""

from selftrain.test_time.records import Attempt, Choice, Outcome, Rating, SelectorCall, credits
from selftrain.test_time.results import Score, score
from selftrain.test_time.strategies import STRATEGIES, Strategy, preflight, register_strategy, run
from selftrain.test_time.strategy_config import Condition, Pool, Rate, Rejection, StrategyConfig, draw_pool
from selftrain.test_time.tokens import ContextLimit, TokenCost, thinking_tokens

__all__ = [
    "STRATEGIES", "Attempt", "Choice", "Condition", "ContextLimit", "Outcome", "Pool", "Rate", "Rating", "Rejection",
    "Score", "SelectorCall", "Strategy", "StrategyConfig", "TokenCost", "credits", "draw_pool", "preflight",
    "register_strategy", "run", "score", "thinking_tokens",
]  # fmt: skip
