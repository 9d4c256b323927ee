"""Every problem of a run inside its one-file report: answers, verdicts, images, and where training rows came from.

The page holds compressed pages of records and opens one when somebody looks at it. `Limits` bounds what it holds, and
the page says what it left out.
"""

from selftrain.report.browser.build import Browser, browse
from selftrain.report.browser.pages import Limits

__all__ = ["Browser", "Limits", "browse"]
