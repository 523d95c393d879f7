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

from activemri.training.folder import read_log

RUNS = ROOT / "runs" / "results"
FINISHED = RUNS / "finished.json"
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
    TABLES[name] = "docs/results.md"


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
    TABLES[name] = "docs/scenarios.md"
    if "--processing none" not in protocol:
        COMMANDS[f"{name}-ideal"] = (
            f"benchmark {protocol} --scanner ideal --split test --max-slices 16 --policies "
            "low-frequency-first --reference low-frequency-first"
        )


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

#: Documents by table; most tables have the name of their benchmark.
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

TABLES["headline"] = "README.md"
TABLES |= dict.fromkeys(("million", "evaluators", "stopping", "coils"), "docs/results.md")
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
    finished = read_finished()
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
            finished = read_finished() | {name: COMMANDS[name]}  # others may run side by side
            FINISHED.write_text(json.dumps(finished, indent=1))
        open_ones = {*waiting, *running}
        ready = [n for n in waiting if not open_ones & set(needs(n)[:-1])]
        for name in ready[: workers - len(running)]:
            waiting.remove(name)
            running[name] = start(name, real=real)
            say(f"{name}: activemri {COMMANDS[name]}; {len(waiting)} more wait")
        time.sleep(1)


def read_finished() -> dict[str, str]:
    """Commands of the runs that have finished."""
    found: dict[str, str] = json.loads(FINISHED.read_text()) if FINISHED.exists() else {}
    return found


def start(name: str, *, real: str) -> subprocess.Popen[bytes]:
    """The command of a run, on one thread, in the folder that holds "runs"."""
    command = COMMANDS[name].replace("PATH", real)
    command = re.sub(r"runs/([\w.-]+)", lambda found: str(RUNS / found[1]), command)
    words = [sys.executable, "-m", "activemri", *shlex.split(command), "--out", str(RUNS / name)]
    trains = command.startswith("train") and not command.startswith("train order")
    if trains and (RUNS / name / "activemri.json").exists():
        words.append("--resume")
    with (RUNS / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            words, stdout=log, stderr=log, cwd=ROOT, env=os.environ | ONE_THREAD
        )


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
    for ideal in runs_of(name)[1:]:  # the same scans without artefacts
        of_ideal = json.loads((RUNS / ideal / "summary.json").read_text())["results"]
        rows += [
            {**row, "policy": f"ideal scanner, {row['policy']}", "bound": True}
            for row in of_ideal
            if row["metric"] == metric
        ]
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


#: Benchmarks of the README, in words.
HEADLINE = {
    "phantoms-zero-filled": "columns, phantoms, zero-filled",
    "phantoms-cresnet": "columns, phantoms, `cresnet`",
    "real-zero-filled": "columns, real scans, zero-filled",
    "real-cresnet": "columns, real scans, `cresnet`",
    "low-field": "low field, repeats, zero-filled",
    "motion": "motion, rejected where noticed, zero-filled",
    "spikes": "spikes, removed, zero-filled",
}


def headline_table() -> str:
    """Scores of the best fixed order, and what imitation of the oracle gains over it."""
    lines = [
        "| scans | best fixed order, area | final | imitation gains, area | final |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, words in HEADLINE.items():
        summary = json.loads((RUNS / name / "summary.json").read_text())
        gains = {
            gap["quantity"]: gap
            for gap in summary["adaptivity"]["gaps"]
            if gap["policy"] == "imitation" and gap["metric"] == "ssim"
        }
        scores = {r["policy"]: r for r in summary["results"] if r["metric"] == "ssim"}
        cells = [words]
        for quantity in ("auc", "final"):
            order = gains[quantity]["order"]
            cells.append(f"{scores[order][quantity]:.3f} (`{order}`)")
        cells += [with_ends(gains[quantity], "gain", sign="+") for quantity in ("auc", "final")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def evaluator_table() -> str:
    """Each variant's choices, and the best order for its network: mean of the seeds, and each."""
    lines = ["| evaluator | policy | area | final |", "| --- | --- | --- | --- |"]
    for variant in VARIANTS:
        summary = json.loads((RUNS / f"evaluator-{variant}" / "summary.json").read_text())
        rows = [row for row in summary["results"] if row["metric"] == "ssim"]
        for policy in dict.fromkeys(row["policy"] for row in rows):
            cells = []
            for quantity in ("auc", "final"):
                seeds = [row[quantity] for row in rows if row["policy"] == policy]
                each = ", ".join(f"{value:.3f}" for value in seeds)
                cells.append(f"{sum(seeds) / len(seeds):.4f} ({each})")
            lines.append(f"| {variant} | {policy} | {' | '.join(cells)} |")
    return "\n".join(lines)


def million_table() -> str:
    """Validation scores of the double DQN and of its contextual form, means of the seeds."""
    lines = ["| actions | ddqn, area | final | ddqn-bandit, area | final |", "| --- " * 5 + "|"]
    logs = {
        label: [read_log(RUNS / f"million-{label}-{seed}" / "log.jsonl") for seed in SEEDS]
        for label in ("ddqn", "ddqn-bandit")
    }
    entries = ("validation_area", "validation_final")
    for place, first in enumerate(logs["ddqn"][0]):
        if place % 2:
            continue  # every second one will do
        cells = [f"{round(first['step'], -3):,}"]
        for seeds in logs.values():
            for entry in entries:
                values = [log[place][entry] for log in seeds]
                cells.append(f"{sum(values) / len(values):.4f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def stopping_table() -> str:
    """Rules that make the same promise, and what an oracle and hindsight would take."""
    rows = json.loads((RUNS / "stopping" / "summary.json").read_text())["stopping"]["rules"]
    lines = [
        "| rule | missed | lines | best fixed budget | oracle | saved | share |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        share = "" if row["share"] is None else f"{row['share']:.0%}"
        if row.get("share_lo") is not None:
            share += f" [{row['share_lo']:.0%}, {row['share_hi']:.0%}]"
        cells = [row["rule"], with_ends(row, "miss"), f"{row['lines']:.1f}"]
        cells += [f"{row['fixed_lines']:.1f}", f"{row['oracle_lines']:.1f}"]
        cells += ["" if row["saved"] is None else f"{row['saved']:+.1f}", share]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def coils_table() -> str:
    """Final scores of reconstructors by policy, ceilings, and the settings that were tuned."""
    lines = []
    for name, title in (("coils", "estimated maps"), ("coils-known", "known maps")):
        summary = json.loads((RUNS / name / "summary.json").read_text())
        rows = [row for row in summary["results"] if row["metric"] == "ssim"]
        ceilings = {
            row["reconstructor"]: with_ends(row, "final")
            for row in summary["ceilings"]
            if row["metric"] == "ssim"
        }
        policies = list(dict.fromkeys(row["policy"] for row in rows))
        lines += [
            f"| {title} | {' | '.join(policies)} | all readouts |",
            "| --- " * (2 + len(policies)) + "|",
        ]
        for network in ceilings:
            own = {row["policy"]: row for row in rows if row["reconstructor"] == network}
            cells = [with_ends(own[policy], "final") for policy in policies]
            lines.append(f"| {network} | {' | '.join(cells)} | {ceilings[network]} |")
        tuned = [
            f"{one['reconstructor']}, {one['policy']}: {one['settings']}"
            for one in summary.get("tuning", [])
        ]
        lines += ["", "Tuned: " + "; ".join(tuned) + ".", ""]
    return "\n".join(lines).strip()


def with_ends(row: dict[str, object], name: str, *, sign: str = "") -> str:
    """A number and its interval."""
    value, low, high = row[name], row[f"{name}_lo"], row[f"{name}_hi"]
    if value is None:
        return ""
    text = f"{value:{sign}.3f}"
    return text if low is None else f"{text} [{low:{sign}.3f}, {high:{sign}.3f}]"


def runs_of(table: str) -> list[str]:
    """Benchmarks that a table is made of."""
    several = {
        "evaluators": [f"evaluator-{variant}" for variant in VARIANTS],
        "coils": ["coils", "coils-known"],
        "headline": list(HEADLINE),
        **{
            name: [name, f"{name.removesuffix('-raw')}-ideal"]
            for name, document in TABLES.items()
            if "scenarios" in document
        },
        "million": [
            f"million-{label}-{seed}" for label in ("ddqn", "ddqn-bandit") for seed in SEEDS
        ],
    }
    return several.get(table, [table])


def made_by(table: str) -> str:
    """The commands of a table and of all that it reads, seeds but the first left out."""
    names = dict.fromkeys(one for run in runs_of(table) for one in needs(run))
    names = [one for one in names if not re.search(r"-[12]$", one)]
    return "\n".join(
        textwrap.fill(
            f"activemri {COMMANDS[one]} --out runs/{one}",
            100,
            initial_indent="    ",
            subsequent_indent="      ",
            break_long_words=False,
            break_on_hyphens=False,
        ).replace("\n", " \\\n")
        + ("\n    # seeds 1 and 2 likewise" if f"{one[:-2]}-1" in COMMANDS else "")
        for one in names
    )


def main() -> None:
    """Run what is named, all by default, and write its tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help=", ".join(TABLES))
    parser.add_argument("--real", default="", metavar="PATH", help="folder of real scans")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    chosen = options.names or list(TABLES)
    wanted = [one for table in chosen for one in runs_of(table)]
    if not options.real and any("PATH" in COMMANDS[n] for one in wanted for n in needs(one)):
        raise SystemExit("--real: expected the folder of the real scans")
    run(wanted, real=options.real, workers=options.workers)
    special = {
        "headline": headline_table,
        "million": million_table,
        "evaluators": evaluator_table,
        "stopping": stopping_table,
        "coils": coils_table,
    }
    for name in chosen:
        if name in TABLES:
            made = special[name]() if name in special else table_of(name)
            if name != "headline":
                made += f"\n\nMade by\n\n{made_by(name)}"
            path, by = ROOT / TABLES[name], f"docs/make_results.py {name}"
            if f"<!-- by {by} -->" in path.read_text(encoding="utf-8"):
                put(path, made, by=by)
            else:  # it has no place there yet
                sys.stdout.write(f"{made}\n")


if __name__ == "__main__":
    main()
