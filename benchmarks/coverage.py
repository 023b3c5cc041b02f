"""Convert every architecture of timm, SMP and torchvision; write what happened to results/coverage.csv.

Usage: python benchmarks/coverage.py [--library timm smp torchvision] [--output DIR]

One row per architecture. ``status`` is "converted", "no batch norm", "refused" (the library itself cannot
build it) or "failed"; ``reason`` says why anything does not apply. ``n_classifiers`` counts the layers that
get one branch per dataset with ``num_classes``. ``bit_equal`` is "yes" where every branch was also compared
with the original on random weights and images, in eval and in train mode: the smallest model of each timm and
torchvision module file, torchvision's segmentation models, every SMP combination.
The checks are those of tests/matrix, from tests/matrix/contracts.py. Rows of libraries that are left out stay
as they are; coverage.json says for each library what its rows were made with.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "matrix"))

import catalogue  # noqa: E402
import contracts  # noqa: E402
from catalogue import Architecture  # noqa: E402

COLUMNS = ("library", "architecture", "status", "n_bn", "n_classifiers", "reason", "bit_equal")
PACKAGES = ("torch", "timm", "segmentation-models-pytorch", "torchvision")
# In each group the smallest architecture with batch norms is compared bit for bit.
LIBRARIES: dict[str, Callable[[], dict[str, list[Architecture]]]] = {
    "timm": catalogue.timm_files,
    "smp": lambda: {architecture.name: [architecture] for architecture in catalogue.smp_architectures()},
    "torchvision": catalogue.torchvision_files,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", nargs="+", choices=LIBRARIES, default=list(LIBRARIES))
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    made_with = environment()  # now: a long run must not name a commit that was made while it ran
    failed = 0
    for library in arguments.library:
        start = time.monotonic()
        rows = survey(library)
        summary = summarise(rows)
        record = {**made_with, "seconds": round(time.monotonic() - start), "summary": summary}
        write(arguments.output, library, rows, record)
        print(f"{library}: " + ", ".join(f"{number} {what}" for what, number in summary.items()))
        failed += summary["failed"]
    sys.exit(failed > 0)


def write(folder: Path, library: str, rows: list[dict[str, Any]], record: dict[str, Any]) -> None:
    """Replace one library's rows in coverage.csv and its entry in coverage.json."""
    table, sidecar = folder / "coverage.csv", folder / "coverage.json"
    kept: list[dict[str, Any]] = []
    if table.exists():
        with open(table, newline="") as file:
            kept = [row for row in csv.DictReader(file) if row["library"] != library]
    records = json.loads(sidecar.read_text()) if sidecar.exists() else {}
    folder.mkdir(parents=True, exist_ok=True)
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(kept + rows, key=lambda row: list(LIBRARIES).index(row["library"])))
    sidecar.write_text(json.dumps({**records, library: record}, indent=2) + "\n")


def survey(library: str) -> list[dict[str, Any]]:
    """Return one row per architecture of a library."""
    groups = LIBRARIES[library]()
    rows = {a: structure_row(a) for architectures in groups.values() for a in architectures}
    for architectures in groups.values():
        architecture = contracts.smallest(architectures)
        if architecture:
            compare_branches(architecture, rows[architecture])
    return sorted(rows.values(), key=lambda row: row["architecture"])


def compare_branches(architecture: Architecture, row: dict[str, Any]) -> None:
    """Compare all branches with the original and note the outcome in the row of the architecture."""
    try:
        contracts.check_branches(architecture)
        row["bit_equal"] = "yes"
    except Exception as error:
        row.update(status="failed", bit_equal="no", reason=one_line(f"{type(error).__name__}: {error}"))
    report(row)


def structure_row(architecture: Architecture) -> dict[str, Any]:
    """Check the structure of one architecture."""
    found = contracts.check_structure(architecture)
    row = {"library": architecture.library, "architecture": architecture.name, "status": found.status}
    row |= {"n_bn": found.n_bn, "n_classifiers": found.n_classifiers, "reason": one_line(found.reason)}
    row["bit_equal"] = ""
    report(row)
    return row


def one_line(text: str) -> str:
    """Return a message in one line of bounded length."""
    return " ".join(text.split())[:300]


def report(row: dict[str, Any]) -> None:
    """Print a row while the others are still being checked."""
    print(*(row[name] for name in COLUMNS), sep="  ", file=sys.stderr, flush=True)


def summarise(rows: list[dict[str, Any]]) -> dict[str, int]:
    """Count statuses, models with private classifiers, and comparisons."""
    statuses = Counter({"converted": 0, "no batch norm": 0, "refused": 0, "failed": 0})
    statuses.update(row["status"] for row in rows)
    return {
        "architectures": len(rows),
        **statuses,
        "with private classifiers": sum(row["n_classifiers"] > 0 for row in rows),
        "bit-equal": sum(row["bit_equal"] == "yes" for row in rows),
    }


def environment() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "command": "python benchmarks/coverage.py",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": git("rev-parse", "HEAD")
        + (" and changes" if git("status", "--porcelain", "dabnn") else ""),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def git(*arguments: str) -> str:
    """Return what git prints; nothing outside a repository."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
