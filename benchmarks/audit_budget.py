"""What an audit costs through the command line: wall time and peak memory, nothing kept from before."""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.audit_pools import HIDDEN, PLAN, make, problem
from excise import params, store
from excise.pipeline.evidence import loaded

SECONDS = {"T0": 10, "T1": 45, "T2": 180}
MODULE = f'''"""Digits with planted wrong labels, and the network that learns them by heart."""

from torch import nn

from excise.pipeline.demo import noisy_digits


def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, {HIDDEN}), nn.ReLU(), nn.Linear({HIDDEN}, 10))


def train():
    return noisy_digits(0)[0]


def test():
    return noisy_digits(0)[2]
'''


def measure(keep, bank=None):
    """Unlearn once, then audit at each tier, with one thread and with two, in a process each with an empty bank.

    What is done is kept at once. A run is stopped at three times its bar.
    """
    own = problem(0, bank)
    model = loaded(make, own.originals(1)[0], "an original")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "memorised.py").write_text(MODULE)
        (work / "ids.txt").write_text("\n".join(str(int(one)) for one in own.wrong) + "\n")
        told = {name: getattr(PLAN, name) for name in ("epochs", "lr", "optimizer", "batch_size")}
        (work / "plan.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in told.items()))
        store.write_tensors(work / "w.safetensors", params.state_of(model))
        words = "unlearn --model memorised:make --weights w.safetensors --data memorised:train"
        words += " --forget ids.txt --recipe Finetune --plan plan.toml --out run --quiet"
        _run(work, words.split(), 1, 60)
        for threads in (1, 2):
            for tier, limit in SECONDS.items():
                options = [
                    "audit",
                    "run",
                    "--test",
                    "memorised:test",
                    "--tier",
                    tier,
                    "--bank",
                    f"bank-{tier}-{threads}",
                ]
                load = os.getloadavg()[0]
                spent = _run(work, [*options, "--json", "--quiet"], threads, 3 * limit)
                rows.append(
                    {
                        "tier": tier,
                        "threads": threads,
                        "limit": limit,
                        **{name: spent[name] for name in ("seconds", "processor_seconds", "peak_bytes")},
                        "load_before": load,
                        "verdict": json.loads(spent["out"])["verdict"] if spent["out"] else "stopped",
                    }
                )
                keep(rows)
                (work / "run" / "audit.json").unlink(missing_ok=True)


def _run(work, words, threads, most):
    """Run a command line in a child of a child, whose only child it is: peak memory is told of children together."""
    command = [str(Path(sys.executable).with_name("excise")), *words]
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "HOME": str(work),
        "XDG_CACHE_HOME": str(work / "cache"),
        "XDG_STATE_HOME": str(work / "state"),
    }
    between = [sys.executable, "-m", "benchmarks.audit_budget", str(most), *command]
    environment["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
    done = subprocess.run(between, cwd=work, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found = json.loads(done.stdout)
    if found["code"] not in (0, 4, None):
        raise RuntimeError(found["err"])
    return found


def main(most, command):
    """Run a command for so many seconds at most, and tell what it cost."""
    started = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=most)
    except subprocess.TimeoutExpired:
        done = subprocess.CompletedProcess(command, None, "", "")
    seconds = time.perf_counter() - started
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    told = {
        "code": done.returncode,
        "out": done.stdout,
        "err": done.stderr,
        "seconds": seconds,
        "processor_seconds": spent.ru_utime + spent.ru_stime,
        "peak_bytes": spent.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    }
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])
