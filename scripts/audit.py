"""Published advisories on the packages of this environment, by pip-audit.

    python -m scripts.audit

Exit status 1 if a package has one. Advisories come from the package index. Where it cannot be reached, or has none of
them, nothing is audited: the command says so, and does not fail.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

COMMAND = (
    *(sys.executable, "-m", "pip_audit", "--local", "--skip-editable"),
    *("--format", "json", "--progress-spinner", "off"),
)


def main(command: Sequence[str] = COMMAND) -> int:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, LookupError, TypeError):
        last = done.stderr.strip().rpartition("\n")[2][:300]
        print(f"audit: nothing was audited, because pip-audit gave no result: {last}")
        return 0
    audited = [one for one in packages if "skip_reason" not in one]
    faults = [(one, fault) for one in audited for fault in one["vulns"]]
    for one, fault in faults:
        mended = ", ".join(fault["fix_versions"]) or "no version yet"
        print(f"audit: {one['name']} {one['version']}: {fault['id']}, mended in {mended}")
    print(f"audit: {len(faults)} advisories on {len(audited)} of {len(packages)} packages", end="")
    print("; the index has no data on the others" if len(audited) < len(packages) else "")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
