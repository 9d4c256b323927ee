"""Lexical signs of reasoning behaviours in a response: verification, backtracking, sub-goals, backward chaining.

The four behaviours are those of Gandhi et al. 2025 (arXiv 2503.01307), who let a language model find them. These rules
look for wordings, so they miss a behaviour in other words and count a phrase that is not meant. Use them to see a
change between iterations of one model, not to compare models.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

RULES: Mapping[str, re.Pattern[str]] = {
    "verify": re.compile(
        r"\b(?:(?:let(?:'s| me| us)|i(?:'ll| will| should)|we) (?:\w+ )?(?:check|verify|confirm)|double[- ]check"
        r"|to (?:check|verify|confirm)\b|checking (?:this|that|the|my)|substitut\w+ back|plug\w* (?:\w+ )?back)"
        r"|检验|验证|检查|代入(?:原|检)",
        re.IGNORECASE,
    ),
    "backtrack": re.compile(
        r"\bwait\b(?:,|\.|!|$)|\b(?:that|this)(?:'s| is| was) (?:wrong|incorrect|not right|a mistake)"
        r"|\bi made an? (?:mistake|error)|\bon second thought"
        r"|\blet(?:'s| me| us) (?:try again|start over|reconsider|re-?do|re-?think)"
        r"|\bactually,|重新(?:计算|考虑|来)|等等|不对|算错",
        re.IGNORECASE | re.MULTILINE,
    ),
    "subgoal": re.compile(
        r"\bstep \d|\bfirst(?:ly)?,|\b(?:next|then|finally),|\b(?:first|next) (?:we|i|find|compute|calculate)\b"
        r"|^\s*\d+[.)] |首先|其次|接着|第[一二三四五]步|步骤",
        re.IGNORECASE | re.MULTILINE,
    ),
    "backward": re.compile(
        r"\bwork(?:ing)? backwards?\b|\bto (?:find|get|obtain|reach) [^.\n]{1,60}, (?:we|i) (?:need|must|first)"
        r"|\bwe want [^.\n]{1,60}, so\b|\bstart(?:ing)? from the (?:answer|result|goal|choices|options)"
        r"|倒推|反推|逆推|要求[^。\n]{1,20}，(?:需|先|只需)",
        re.IGNORECASE,
    ),
}


def behaviours(text: str) -> frozenset[str]:
    """The names in RULES whose wording occurs in a response."""
    return frozenset(name for name, rule in RULES.items() if rule.search(text))
