"""Run what docs/results.md is made of, and write its tables between their marks.

    python docs/make_results.py --real PATH                # everything: a night on two cores
    python docs/make_results.py columns spikes             # some tables, and what they need

Every run is an ``activemri`` command, written here once: it is what is run and what the document
shows. Commands that have finished are not run again, interrupted ones go on where they were.
Tables are read from the summary of their benchmark, never typed.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence

from make_speed import ROOT, put

RUNS = ROOT / "runs" / "results"
SEEDS = (0, 1, 2)
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1"
)

#: Commands by the name of their folder, without --out; others' folders are runs/NAME in them, and
#: PATH is that of the real scans.
COMMANDS: dict[str, str] = {}


def seeded(name: str, command: str) -> str:
    """Add a training with several seeds; the folders, as a benchmark takes them."""
    for seed in SEEDS:
        COMMANDS[f"{name}-{seed}"] = f"{command} --seed {seed}"
    return ",".join(f"runs/{name}-{seed}" for seed in SEEDS)


def rivals(name: str, protocol: str, *, fit: str, learn: str = "") -> dict[str, str]:
    """Add orders, imitation, and imitation that sees the mask alone, of one protocol."""
    found = {}
    for kind in ("lbcs", "lbcs-final"):
        COMMANDS[f"{name}-{kind}"] = f"train order {protocol} --kind {kind} {fit}"
        found[kind] = f"runs/{name}-{kind}/{kind}.json"
    for label, sees in (("mask-only", " --learner.sees mask"), ("imitation", "")):
        if sees and "--processing none" in protocol:
            continue
        command = f"train policy --algo imitation {protocol}{learn}{sees}"
        found[label] = f"{label}={seeded(f'{name}-{label}', command)}"
    return found


def columns(name: str, protocol: str, *, fit: str, slices: str, learn: str = "") -> None:
    """The table of columns of one data set and reconstructor."""
    found = rivals(name, protocol, fit=fit, learn=learn)
    for algo, more in START_RIVALS.items():
        COMMANDS[f"{name}-{algo}"] = f"train policy --algo {algo} {protocol} {more}".strip()
        found[algo] = f"{algo}=runs/{name}-{algo}"
    more = ""
    if name == "phantoms-zero-filled":
        for label, gamma in (("ddqn", "0.5"), ("ddqn-bandit", "0")):
            command = f"{MILLION} --learner.gamma {gamma}"
            found[label] = f"{label}={seeded(f'million-{label}', command)}"
    elif "zero-filled" not in name:
        more = "uncertainty-greedy uncertainty-gradient principal-components evaluator-greedy "
    COMMANDS[name] = (
        f"benchmark {protocol} --split test {slices} --policies random low-frequency-first "
        f"conjugate-symmetric {' '.join(found.values())} {more}oracle exchange-oracle"
    )
    TABLES[name] = "results.md"


def scenario(name: str, protocol: str, *, more: str = "") -> None:
    """The table of a scenario, and of the same scans without its artefacts."""
    protocol += " --reconstructor zero-filled"
    found = rivals(name, protocol, fit="--n-fit-scans 16 --max-fit-slices 32")
    played = "random low-frequency-first " + " ".join(found.values())
    if "Motion" in protocol or "Spikes" in protocol:
        played += f" re-acquire {found['lbcs']}+re-acquire"
    COMMANDS[name] = (
        f"benchmark {protocol} --split test --max-slices 16 --policies {played} {more}oracle"
    )
    TABLES[name] = "scenarios.md"


MILLION = (
    "train policy --algo ddqn --data phantom --reconstructor zero-filled --learner.max-steps "
    "1000000 --learner.n-envs 64 --learner.batch 64 --learner.updates 1 --learner.channels 16 "
    "--learner.blocks 1 --learner.cache-mb 200 --learner.target-every 2000 --validate-every 50000"
)
START_RIVALS = {
    "factor": "",
    "nearest-neighbour": "",
    "one-shot": "--learner.scans 32 --learner.orders 3 --learner.max-steps 3",
}
ONE_SLICE = "--max-slices 40 --max-oracle-slices 20"
REAL = "--data PATH --matrix-size 128"

#: Documents by table; a table has the name of its benchmark.
TABLES: dict[str, str] = {}

columns(
    "phantoms-zero-filled",
    "--data phantom --reconstructor zero-filled",
    fit="--n-fit-scans 64",
    slices=ONE_SLICE,
)
columns(
    "phantoms-cresnet",
    "--data phantom --reconstructor cresnet",
    fit="--n-fit-scans 8",
    slices=ONE_SLICE,
)
COMMANDS["joint"] = (
    f"train joint {REAL} --max-steps 6000 --evaluator-steps 3000 --validate-every 500 --images 0"
)
columns(
    "real-zero-filled",
    f"{REAL} --reconstructor zero-filled",
    fit="--n-fit-scans 64",
    slices="--slices-per-volume 2",
)
columns(
    "real-cresnet",
    f"{REAL} --reconstructor runs/joint",
    fit="--n-fit-scans 8",
    slices="--slices-per-volume 2",
)
# Evaluators of one network, which goes on learning from the shipped weights with and without one.
_EVALUATORS = "--data phantom --matrix-size 128 --validate-every 500 --images 0"
_LONGER = f"{_EVALUATORS} --reconstructor activemri/weights/cresnet --max-steps 3000 --lr 1e-3"
VARIANTS = {
    "staged": f"{_LONGER} --evaluator-steps 3000",
    "joint": f"{_LONGER} --schedule alternating",
    "paper": f"{_LONGER} --schedule alternating --loss nll",
    "no-line-features": "--evaluator.line-channels 0",
    "line-features-alone": "--evaluator.channels 0",
}
for variant, options in VARIANTS.items():
    for seed in SEEDS:
        if options.startswith("--data"):
            command = options
        else:  # another evaluator of the same network
            given = f"--reconstructor runs/evaluator-staged-{seed}/best --max-steps 0"
            command = f"{_EVALUATORS} {given} --evaluator-steps 3000 {options}"
        COMMANDS[f"evaluator-{variant}-{seed}"] = f"train joint {command} --seed {seed}"
    played = "evaluator-greedy"
    if options.startswith("--data"):
        played = "low-frequency-first lbcs evaluator-greedy"
    networks = " ".join(f"runs/evaluator-{variant}-{seed}" for seed in SEEDS)
    COMMANDS[f"evaluator-{variant}"] = (
        f"benchmark --data phantom --split test --max-slices 24 --policies {played} --reference "
        f"evaluator-greedy --n-fit-scans 8 --max-fit-slices 64 --reconstructors {networks}"
    )

COMMANDS["stopping"] = (
    "benchmark --data phantom --reconstructors cresnet --budget 48 --split test --n-subjects 160 "
    "--max-slices 160 --policies low-frequency-first --reference low-frequency-first --stop.target "
    "0.85 --stop.calibration calibration --stop.calibration-subjects 240 --stop.fit-subjects 400 "
    "--stop.max-slices 400"
)

COMMANDS["modl"] = (
    "train reconstructor --data phantom-multicoil --reconstructor modl --network.channels 24 "
    "--max-steps 2000 --validate-every 250 --lr 1e-3 --images 0"
)
COMMANDS["varnet"] = (
    "train reconstructor --data phantom-multicoil --reconstructor varnet --max-steps 4000 "
    "--validate-every 500 --lr 2e-3 --images 0"
)
COILS = (
    "benchmark --data phantom-multicoil --split test --max-slices 24 --policies "
    "low-frequency-first variable-density equispaced --reference low-frequency-first "
    "--reconstructors zero-filled cg-sense wavelet total-variation"
)
COMMANDS["coils"] = f"{COILS} runs/modl runs/varnet --tune-scans 8"
COMMANDS["coils-known"] = f"{COILS} --tune-scans 8 --sensitivity known"

scenario("spikes", "--env ActiveMRI/Spikes-v0")
scenario("spikes-raw", "--env ActiveMRI/Spikes-v0 --processing none")
scenario("motion", "--env ActiveMRI/Motion-v0")
scenario("motion-raw", "--env ActiveMRI/Motion-v0 --processing none")
scenario("low-field", "--env ActiveMRI/LowField-v0", more="repeat-centre ")


def needs(name: str) -> list[str]:
    """Runs that a run reads, in order and itself last."""
    found: list[str] = []
    for other in re.findall(r"runs/([\w.-]+)", COMMANDS[name]):
        found += needs(other)
    return list(dict.fromkeys([*found, name]))


def run(names: Sequence[str], *, real: str, workers: int) -> None:
    """Run commands that have not finished, those first that others need."""
    RUNS.mkdir(parents=True, exist_ok=True)
    record = RUNS / "finished.json"
    finished = json.loads(record.read_text()) if record.exists() else {}
    waiting = [
        name
        for name in dict.fromkeys(one for name in names for one in needs(name))
        if finished.get(name) != COMMANDS[name]
    ]
    running: dict[str, subprocess.Popen[bytes]] = {}
    while waiting or running:
        for name, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[name]
            if process.returncode:
                raise SystemExit(f"{name} failed, see {RUNS / name}.log")
            finished[name] = COMMANDS[name]
            record.write_text(json.dumps(finished, indent=1))
        open_ones = {*waiting, *running}
        ready = [n for n in waiting if not open_ones & set(needs(n)[:-1])]
        for name in ready[: workers - len(running)]:
            waiting.remove(name)
            running[name] = start(name, real=real)
            say(f"{name}: activemri {COMMANDS[name]}; {len(waiting)} more wait")
        time.sleep(1)


def start(name: str, *, real: str) -> subprocess.Popen[bytes]:
    """The command of a run, on one thread, in the folder that holds "runs"."""
    command = COMMANDS[name].replace("PATH", real)
    command = re.sub(r"runs/([\w.-]+)", lambda found: str(RUNS / found[1]), command)
    words = [sys.executable, "-m", "activemri", *shlex.split(command), "--out", str(RUNS / name)]
    trains = command.startswith("train") and not command.startswith("train order")
    if trains and (RUNS / name / "activemri.json").exists():
        words.append("--resume")
    with (RUNS / f"{name}.log").open("ab") as log:
        return subprocess.Popen(words, stdout=log, stderr=log, env=os.environ | ONE_THREAD)


def say(text: str) -> None:
    """A line with the time."""
    sys.stdout.write(f"{time.strftime('%H:%M')} {text}\n")
    sys.stdout.flush()


def table_of(name: str, *, metric: str = "ssim", reconstructor: str | None = None) -> str:
    """Area, final score and gain over the best fixed order of a benchmark, as a document has it."""
    summary = json.loads((RUNS / name / "summary.json").read_text())
    rows = [*summary["results"], *summary["ceilings"]]
    rows = [row for row in rows if row["metric"] == metric]
    one = reconstructor or rows[0]["reconstructor"]
    gains = {
        (gap["policy"], gap["quantity"]): gap
        for gap in summary["adaptivity"]["gaps"]
        if (gap["metric"], gap["reconstructor"]) == (metric, one)
    }
    costs = {cost["policy"]: cost for cost in reversed(summary["training"])}
    best = {gap["quantity"]: gap["order"] for gap in gains.values()}
    lines = []
    for row in rows:
        if row["reconstructor"] != one:
            continue
        policy, cells = row["policy"], list[str]()
        for quantity in ("auc", "final"):
            text = with_ends(row, quantity)
            cells.append(f"**{text}**" if best.get(quantity) == policy else text)
        for quantity in ("auc", "final"):
            gap = gains.get((policy, quantity))
            cells.append("" if gap is None else with_ends(gap, "gain", sign="+"))
        cost = costs.get(policy, {})
        for entry in ("actions", "subjects", "seconds"):
            value = cost.get(entry)
            cells.append("" if value is None else f"{value:,.0f}")
        lines.append([f"*{policy}*" if row["bound"] else policy, *cells])
    header = ["policy", "area", "final", "gain, area", "gain, final", "actions", "subjects", "s"]
    used = [0, *(i for i in range(1, len(header)) if any(line[i] for line in lines))]
    shown = [[row[i] for i in used] for row in ([*header], ["---"] * len(header), *lines)]
    return "\n".join("| " + " | ".join(line) + " |" for line in shown)


def with_ends(row: dict[str, object], name: str, *, sign: str = "") -> str:
    """A number and its interval."""
    value, low, high = row[name], row[f"{name}_lo"], row[f"{name}_hi"]
    if value is None:
        return ""
    text = f"{value:{sign}.3f}"
    return text if low is None else f"{text} [{low:{sign}.3f}, {high:{sign}.3f}]"


def made_by(name: str) -> str:
    """The commands of a run and of all that it reads, seeds but the first left out."""
    names = [one for one in needs(name) if not re.search(r"-[12]$", one)]
    return "\n".join(
        textwrap.fill(
            f"activemri {COMMANDS[one]} --out runs/{one}",
            100,
            initial_indent="    ",
            subsequent_indent="      ",
            break_long_words=False,
            break_on_hyphens=False,
        ).replace("\n", " \\\n")
        for one in names
    )


def main() -> None:
    """Run what is named, all by default, and write its tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help=", ".join(TABLES))
    parser.add_argument("--real", default="", metavar="PATH", help="folder of real scans")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    chosen = options.names or [n for n in TABLES if options.real or "PATH" not in COMMANDS[n]]
    run(chosen, real=options.real, workers=options.workers)
    for name in chosen:
        if name in TABLES:
            text = f"{table_of(name)}\n\nMade by\n\n{made_by(name)}"
            put(ROOT / "docs" / TABLES[name], text, by=f"docs/make_results.py {name}")


if __name__ == "__main__":
    main()
