"""The training step against TRL's, side by side: tokens per CPU second, memory, share of the FLOP limit.

    pip install "trl==1.16.0" "torch==2.13.0"          # in an environment of its own
    python benchmarks/step.py --peer /path/to/that/environment/bin/python

One setting a process, one thread, the peer and this package in turn; the reference pass is counted. Wall time is not
used: CPU seconds are what remains comparable on a machine that others use, and even they spread by about a tenth there,
so read the ratios and repeat. Results go to `benchmarks/results/step.json` with machine and date.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SETTINGS = {
    # name: (model, arguments of the peer, arguments of this package)
    "S": ("S", [], []),
    "M": ("M", [], []),
    "B": ("B", [], []),
    "S bf16": ("S", ["--bf16", "--precompute"], ["--bf16"]),
}


def measure(python: str, script: str, *arguments: str) -> dict[str, Any]:
    """The JSON line of one process."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [python, str(HERE / script), *arguments]
    process = subprocess.run(command, env=environment, capture_output=True, text=True)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{process.stderr[-3000:]}")
    found = json.loads(process.stdout.strip().splitlines()[-1])
    return found | {"tokens_per_cpu_s": found["tokens"] / (found["step_cpu_s"] + found["reference_cpu_s"])}


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Ratios of medians; the limit is that of the same process."""
    middle = {
        way: {key: statistics.median(run[key] for run in found) for key in ("tokens_per_cpu_s", "memory_mb")}
        for way, found in runs.items()
    }
    result = {}
    for way in ("bare", "fit"):
        result[f"{way}_tokens_per_cpu_s"] = middle[way]["tokens_per_cpu_s"]
        result[f"{way}_limit_share"] = statistics.median(run["limit_cpu_s"] / run["step_cpu_s"] for run in runs[way])
        if "peer" in middle:
            result[f"{way}_ratio"] = middle[way]["tokens_per_cpu_s"] / middle["peer"]["tokens_per_cpu_s"]
            result[f"{way}_memory_ratio"] = middle[way]["memory_mb"] / middle["peer"]["memory_mb"]
    return result


def main() -> None:
    """Measures, prints a table, writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="an interpreter that has TRL; not given: no peer")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--pairs", type=int, default=2, help="pairs a step")
    parser.add_argument("--steps", type=int, default=3, help="steps timed, after one to warm up")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "step.json")
    arguments = parser.parse_args()
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name in arguments.settings:
        model, peer_arguments, own_arguments = SETTINGS[name]
        size = ("--model", model, "--pairs", str(arguments.pairs), "--steps", str(arguments.steps))
        runs: dict[str, list[dict[str, Any]]] = {}
        for _ in range(arguments.repeats):
            if arguments.peer:
                found = measure(arguments.peer, "peer/trl_step.py", *size, *peer_arguments)
                runs.setdefault("peer", []).append(found)
            for way in ("bare", "fit"):
                found = measure(sys.executable, "step_worker.py", *size, "--through", way, *own_arguments)
                runs.setdefault(way, []).append(found)
        found = summary(runs)
        results[name] = {
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread; load {os.getloadavg()[0]:.0f}",
            "pairs": arguments.pairs,
            "steps": arguments.steps,
            "runs": runs,
            "summary": found,
        }
        arguments.out.parent.mkdir(exist_ok=True)
        arguments.out.write_text(json.dumps(results, indent=1) + "\n")
        print(name, {key: round(value, 3) for key, value in found.items()}, flush=True)


if __name__ == "__main__":
    main()
