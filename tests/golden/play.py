"""Plays episodes through Gymnasium alone, and turns them into plain numbers for JSON."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from tests.golden.cases import Case

RECORDED = Path(__file__).parent / "recorded"
#: Actions after which vector environments begin new scans.
VECTOR_STEPS = 2

Record = dict[str, Any]
#: Takes the legal actions and those taken so far; gives the next one, or None at the end.
Choice = Callable[[NDArray[np.int8], Sequence[int]], int | None]


def make(case: Case, data: Path | None) -> gymnasium.Env[Any, Any]:
    """The environment of a case; its scans lie in `data` where they come from files."""
    return gymnasium.make(case.id, **_options(case, data))


def make_vector(case: Case, data: Path | None) -> gymnasium.vector.VectorEnv[Any, Any, Any]:
    """A scan for each of the case's seeds, renewed at once after :data:`VECTOR_STEPS` actions."""
    return gymnasium.make_vec(
        case.id,
        num_envs=len(case.seeds),
        autoreset_mode=AutoresetMode.SAME_STEP,
        max_episode_steps=VECTOR_STEPS,
        **_options(case, data),
    )


def play(
    env: gymnasium.Env[Any, Any],
    case: Case,
    seed: int,
    *,
    actions: Sequence[int] | None = None,
    follow: bool = False,
) -> Record:
    """One episode.

    Args:
        env: of the case.
        case: how to play.
        seed: of the reset, and of the actions where none are given.
        actions: those of the record.
        follow: tell how the episode after it begins as well.
    """
    options = dict(case.reset)
    observation, info = env.reset(seed=seed, options=options)
    choose = _drawn(case, seed) if actions is None else _given(actions)
    observations, infos = [observation], [info]
    taken: list[int] = []
    rewards: list[float] = []
    terminated = False
    while not terminated and (action := choose(info["action_mask"], taken)) is not None:
        observation, reward, terminated, _, info = env.step(action)
        observations.append(observation)
        infos.append(info)
        taken.append(action)
        rewards.append(float(reward))
    kept = _kept(len(taken), case.every)
    kept_infos = _kept(len(taken), case.infos_every)
    record: Record = {
        "actions": taken,
        "terminated": bool(terminated),
        "steps": kept_infos,
        "rewards": rewards,
        "infos": columns([infos[step] for step in kept_infos]),
        "observations": {str(step): digest(observations[step]) for step in kept},
    }
    if follow:
        observation, info = env.reset(options=options)
        record["following"] = {"infos": columns([info]), "observation": digest(observation)}
    return record


def columns(infos: Iterable[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Values of every info by name, null where it is missing; masks as hexadecimal digits."""
    rows = list(infos)
    names = dict.fromkeys(name for row in rows for name in row if not name.startswith("_"))
    return {name: [_plain(row.get(name)) for row in rows] for name in names}


def digest(observation: Any) -> dict[str, Record]:
    """Shape, type, mean, standard deviation and three projections of every part."""
    parts = observation if isinstance(observation, dict) else {"": observation}
    return {name: _digest(np.asarray(part)) for name, part in parts.items()}


@cache
def read(group: str) -> Record:
    """What is recorded in a file."""
    text = (RECORDED / f"{group}.json").read_text(encoding="utf-8")
    record: Record = _unpacked(json.loads(text))
    return record


def write(group: str, record: Record) -> Path:
    """Record numbers to nine digits, one list a line."""
    path = RECORDED / f"{group}.json"
    path.write_text(_text(_packed(record)) + "\n", encoding="utf-8")
    return path


def _options(case: Case, data: Path | None) -> dict[str, Any]:
    return dict(case.options) | ({} if data is None else {"data": str(data)})


def _drawn(case: Case, seed: int) -> Choice:
    """Actions drawn at random, most of them legal."""
    rng = np.random.default_rng(seed)

    def choose(mask: NDArray[np.int8], taken: Sequence[int]) -> int | None:
        if len(taken) == case.steps:
            return None
        lines, stop = (mask, None) if case.stop is None else (mask[:-1], len(mask) - 1)
        if case.stop is not None and case.stop.get(seed) == len(taken):
            return stop
        legal, illegal = np.flatnonzero(lines), np.flatnonzero(lines == 0)
        repeated = [action for action in dict.fromkeys(taken) if lines[action]]
        if repeated and rng.random() < case.again:
            return int(rng.choice(repeated))
        if len(illegal) and rng.random() < case.illegal:
            return int(rng.choice(illegal))
        return int(rng.choice(legal)) if len(legal) else stop

    return choose


def _given(actions: Sequence[int]) -> Choice:
    """Actions as they were recorded."""
    return lambda mask, taken: actions[len(taken)] if len(taken) < len(actions) else None


def _kept(n_steps: int, every: int) -> list[int]:
    """Numbers of actions after which something is recorded."""
    wanted = {VECTOR_STEPS, n_steps, *range(0, n_steps, every)}
    return sorted(step for step in wanted if step <= n_steps)


def _digest(part: NDArray[Any]) -> Record:
    values = part.astype(np.float64).ravel()
    projections = _directions(values.size) @ values / np.sqrt(values.size)
    return {
        "shape": list(part.shape),
        "dtype": str(part.dtype),
        "numbers": [float(values.mean()), float(values.std()), *projections.tolist()],
    }


@cache
def _directions(n: int) -> NDArray[np.float64]:
    """Pseudo-random numbers of mean 0 and variance 1, the same everywhere: (3, n).

    They are the output function of SplitMix64 (Steele et al., OOPSLA 2014) of the numbers
    from 1 on.
    """
    mixed = np.arange(1, 3 * n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    uniform: NDArray[np.float64] = mixed.astype(np.float64) / 2.0**64
    directions: NDArray[np.float64] = math.sqrt(12) * (uniform.reshape(3, n) - 0.5)
    return directions


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    array = np.asarray(value)
    if array.ndim:  # a mask
        return np.packbits(array != 0).tobytes().hex()
    return array.item()


def _packed(value: Any) -> Any:
    """Floats to nine digits; a list whose values are all equal becomes [value, "x", length]."""
    if isinstance(value, dict):
        return {key: _packed(one) for key, one in value.items()}
    if isinstance(value, list):
        short = [_packed(one) for one in value]
        if len(short) > 3 and all(one == short[0] for one in short):
            return [short[0], "x", len(short)]
        return short
    return float(f"{value:.9g}") if isinstance(value, float) else value


def _unpacked(value: Any) -> Any:
    """The inverse of :func:`_packed`."""
    if isinstance(value, dict):
        return {key: _unpacked(one) for key, one in value.items()}
    if isinstance(value, list) and len(value) == 3 and value[1] == "x":
        return [value[0]] * int(value[2])
    return value


def _text(value: Any, indent: int = 0) -> str:
    """JSON with one line for every list, and for every digest."""
    if not isinstance(value, dict) or "numbers" in value:
        return json.dumps(value, separators=(",", ":"))
    pad = "\n" + " " * (indent + 1)
    inner = [f"{pad}{json.dumps(key)}: {_text(one, indent + 1)}" for key, one in value.items()]
    return "{" + ",".join(inner) + "\n" + " " * indent + "}"
