"""What the audit says of pip-audit's results."""

from __future__ import annotations

import json
import sys

import pytest

from scripts.audit import main

SOUND = {"name": "numpy", "version": "2.0.0", "vulns": []}
FAULT = {"id": "PYSEC-1", "fix_versions": ["3.1.6"], "aliases": [], "description": "long"}
FAULTY = {"name": "jinja2", "version": "3.1.2", "vulns": [FAULT, {**FAULT, "id": "PYSEC-2", "fix_versions": []}]}
UNKNOWN = {"name": "own", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("result", "status", "lines"),
    [
        (json.dumps({"dependencies": [SOUND]}), 0, ["0 advisories on 1 of 1 packages"]),
        (
            json.dumps({"dependencies": [SOUND, FAULTY, UNKNOWN]}),
            1,
            [
                "jinja2 3.1.2: PYSEC-1, mended in 3.1.6",
                "jinja2 3.1.2: PYSEC-2, mended in no version yet",
                "2 advisories on 2 of 3 packages; the index has no data on the others",
            ],
        ),
        (
            json.dumps({"dependencies": [UNKNOWN]}),
            0,
            ["0 advisories on 0 of 1 packages; the index has no data on the others"],
        ),
        ("", 0, ["nothing was audited, because pip-audit gave no result: no network"]),
        ("[]", 0, ["nothing was audited, because pip-audit gave no result: no network"]),
    ],
)
def test_audit(capsys, result, status, lines):
    script = f"import sys; print({result!r}); sys.exit('first line\\nno network')"
    assert main([sys.executable, "-c", script]) == status
    assert capsys.readouterr().out.splitlines() == [f"audit: {line}" for line in lines]
