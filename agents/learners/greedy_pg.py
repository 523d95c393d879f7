"""Policy gradient with rewards one step ahead, or over the whole scan.

Bakker, van Hoof and Welling, Experimental design for MRI by greedy policy search, NeurIPS 2020.
In every state k actions are drawn from the policy, and all are tried. What action j gains is its
reward r_j, and the loss is

    - sum over j of log pi(a_j | s) (r_j - mean r) / (k - 1),

an unbiased estimate of the (negative) gradient of the expected reward, in which every action has
the others' mean as its baseline. The scan goes on with one of the k, chosen at random. That is
`horizon=greedy`. With `horizon=full` k scans of the same subject go to their ends side by side,
and r_j is what follows the action until then, discounted by gamma, each step's reward minus its
mean over the k scans.

Ours differs: the reward is the environment's score; advantages are divided by their root mean
square over the batch, as late lines gain a hundredth of what early ones do and would not be learned
(`balance`); weights move after every acquisition instead of every scan; scores are bounded where
actions are drawn, so that the policy cannot collapse onto one action; and the network is small and
sees features of lines. A step is one scan, from its start to its end.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from activemri.agents.learners.learner import Descent, Problem, Report, require_positive, silent
from activemri.agents.networks import ActionNetwork, LearnedPolicy
from activemri.agents.policy import signed
from activemri.agents.relaxations import bounded
from activemri.envs.scan import IDLE, STOP, State


@dataclass(frozen=True, kw_only=True)
class GreedyPG:
    """Policy gradient whose rewards are one action ahead, or the whole scan."""

    taught_by: ClassVar[str] = "reinforcement learning"
    max_steps: int = 320
    """Scans to learn from; schedules end there."""
    horizon: Literal["greedy", "full"] = "greedy"
    """Rewards: greedy, of the next action alone, or full, of all that follows."""
    samples: int = 8
    """Actions tried in a state, or scans side by side: k."""
    gamma: float = 1.0
    """Discount of later rewards, for the full horizon."""
    balance: bool = True
    """Advantages in units of their root mean square: of a step's batch (greedy), or of all steps
    of a batch (full)."""
    network: Literal["lines", "varnet"] = "lines"
    """Network: lines sees features of lines, varnet images."""
    temperature: float = 0.5
    """Actions are drawn from softmax(score / temperature)."""
    lr: float = 1e-3
    """Learning rate of Adam, which falls to a twentieth."""
    batch: int = 4
    """Scans side by side (full: times k)."""
    channels: int = 32
    """Channels of the network of lines."""
    blocks: int = 3
    """Residual blocks of the network of lines."""

    def __post_init__(self) -> None:
        if self.horizon not in ("greedy", "full"):
            raise ValueError(f"--learner.horizon: expected greedy or full; got {self.horizon!r}")
        if self.samples < 2:
            raise ValueError(f"--learner.samples: expected at least 2; got {self.samples}")
        require_positive(self, "max_steps", "temperature", "lr", "batch", "channels", "blocks")

    def start(self, problem: Problem) -> "GreedyPGLearner":
        return GreedyPGLearner(self, problem)


class GreedyPGLearner(Descent):
    """Plays scans to their end and follows the gradient of their rewards."""

    settings: GreedyPG
    network: ActionNetwork

    def policy(self) -> LearnedPolicy:
        return self.problem.policy(self.network)

    def learn(self, n_steps: int, report: Report = silent, /) -> Mapping[str, float]:
        noise: Moments = (0, torch.zeros(()), torch.zeros(()))
        gains, end = list[float](), self.step + n_steps
        play = self._play_greedily if self.settings.horizon == "greedy" else self._play_to_the_end
        while self.step < end:
            states, _, draws = self.problem.batch(self.step, self.settings.batch, self.scan)
            for start in states:
                gradient, gain = play(start, draws)
                if bool(gradient.any()):  # else all k were the same action, in every state
                    noise = counted(noise, gradient)
                gains.append(gain)
            self.step += self.settings.batch
            report(gain=gains[-1])
        return {"gain": sum(gains) / len(gains), **signal_to_noise(noise)}

    def _play_greedily(self, state: State, draws: torch.Generator) -> tuple[Tensor, float]:
        """Scan to the end and learn at every step: the sum of gradients, and the mean gain."""
        metric, k = self.problem.metric, self.settings.samples
        total, gradient = 0.0, torch.zeros(sum(w.numel() for w in self.weights))
        while not bool(state.finished.all()):
            active = ~state.finished
            log_policy = self._log_policy(*self._look(state))
            tried = torch.multinomial(log_policy.detach().exp(), k, True, generator=draws)
            acquires = tried < self.network.n_actions
            self.problem.n_actions += int(acquires[active].sum())
            scores = self.scan.preview(state, torch.where(acquires, tried, 0), (metric,))[metric]
            gains = signed(scores, metric) - self._score(state)[:, None]
            rewards = torch.where(acquires, gains - self.problem.protocol.step_cost, 0.0)
            advantage = advantages(rewards)
            if self.settings.balance:
                advantage = in_units_of_size(advantage, active)
            chosen = log_policy.gather(1, tried)
            loss = -(chosen * advantage.float()).sum(dim=1)[active].sum() / len(active)
            loss.backward(inputs=self.weights)
            gradient += self._follow()
            pick = torch.randint(k, (len(state), 1), generator=draws)
            total += float(rewards.gather(1, pick)[active].sum()) / len(active)
            state = self._acquired(state, tried.gather(1, pick).squeeze(1))
        return gradient, total

    def _play_to_the_end(self, start: State, draws: torch.Generator) -> tuple[Tensor, float]:
        """Scan k times to the end, then learn from all steps: the gradient, and the mean gain."""
        k, price = self.settings.samples, self.problem.protocol.step_cost
        state = start.select(start.rows.repeat_interleave(k))
        looks, rewards = list[tuple[Mapping[str, Tensor], Tensor, Tensor, Tensor]](), list[Tensor]()
        while not bool(state.finished.all()):
            active, (seen, allowed) = ~state.finished, self._look(state)
            with torch.no_grad():
                policy = self._log_policy(seen, allowed).exp()
            taken = torch.multinomial(policy, 1, generator=draws)
            looks.append((seen, allowed, taken, active))
            self.problem.n_actions += int(active.sum())
            before, actions = self._score(state).clone(), taken.squeeze(1)
            state = self._acquired(state, actions)
            paid = price * (actions < self.network.n_actions) * active
            rewards.append((self._score(state) - before - paid).view(-1, k))
        worth = worth_of(torch.stack(rewards), gamma=self.settings.gamma).flatten(1)
        if self.settings.balance:
            worth = in_units_of_size(worth, torch.stack([active for *_, active in looks]))
        for (seen, allowed, taken, active), weight in zip(looks, worth.float(), strict=True):
            chosen = self._log_policy(seen, allowed).gather(1, taken).squeeze(1)
            loss = -(chosen * weight)[active].sum() / len(start)
            loss.backward(inputs=self.weights)
        return self._follow(), float(torch.stack(rewards).sum(dim=0).mean())

    def _look(self, state: State) -> tuple[Mapping[str, Tensor], Tensor]:
        """The observation, and what may be drawn, bool (batch, n_actions + stops).

        After a scan's end that is everything.
        """
        n_more = int(self.network.stops)
        allowed = torch.nn.functional.pad(state.view.legal, (0, n_more), value=True)
        seen = self.network.observe(state.view, self.problem.frame)
        return seen, allowed | state.finished[:, None]

    def _log_policy(self, seen: Mapping[str, Tensor], allowed: Tensor) -> Tensor:
        """Logarithms of the policy's probabilities, (batch, n_actions + stops)."""
        scores = self.network(seen)[:, : allowed.shape[1]] / self.settings.temperature
        lowest = torch.finfo(scores.dtype).min / 2
        return torch.log_softmax(bounded(scores).masked_fill(~allowed, lowest), dim=1)

    def _acquired(self, state: State, drawn: Tensor) -> State:
        """The scans after the actions that were drawn, the last of which may be STOP."""
        actions = torch.where(drawn < self.network.n_actions, drawn, STOP)
        return self.scan.acquire(state, torch.where(state.finished, IDLE, actions))

    def _score(self, state: State) -> Tensor:
        return signed(state.scores[self.problem.metric], self.problem.metric)

    def _follow(self) -> Tensor:
        """One step of descent: the gradient before it was clipped, (n_weights,)."""
        gradients = [torch.zeros_like(w) if w.grad is None else w.grad for w in self.weights]
        gradient = torch.cat([g.detach().flatten().cpu() for g in gradients])
        self.move()
        return gradient


def advantages(rewards: Tensor) -> Tensor:
    """(r_j - mean r) / (k - 1) for rewards of k actions of one state, (..., k)."""
    return (rewards - rewards.mean(dim=-1, keepdim=True)) / (rewards.shape[-1] - 1)


def worth_of(rewards: Tensor, *, gamma: float) -> Tensor:
    """Discounted sum of all advantages from each step on: (steps, batch, k), as the rewards."""
    worth = advantages(rewards)
    for step in range(len(worth) - 2, -1, -1):
        worth[step] += gamma * worth[step + 1]
    return worth


def in_units_of_size(advantage: Tensor, active: Tensor) -> Tensor:
    """Divided by the root mean square over what is active; zeros stay zeros."""
    size = advantage[active].square().mean().sqrt()
    return advantage / torch.where(size > 0, size, 1.0) / math.sqrt(advantage.shape[-1])


#: Number of some gradients, their mean, and the sum of squared deviations from it.
Moments = tuple[int, Tensor, Tensor]


def counted(moments: Moments, gradient: Tensor) -> Moments:
    """With one more gradient, (n_weights,), by Welford's recursion."""
    n, mean, squares = moments
    away = gradient.double() - mean
    mean = mean + away / (n + 1)
    return n + 1, mean, squares + away * (gradient.double() - mean)


def signal_to_noise(moments: Moments) -> Mapping[str, float]:
    """Signal over noise of gradients, each of few scans, for the log; none for fewer than two.

    With mean m and standard deviations s over n gradients, weight by weight:
    `gradient_snr_per_weight`, the mean of |m| / s, of the ratio of Rainforth et al., Tighter
    variational bounds are not necessarily better, ICML 2018 (about sqrt(2 / (pi n)) without any
    signal; weights that are never reached are left out); and `gradient_snr`,
    sqrt(|mu|^2 / sum of s^2), where |mu|^2 = |m|^2 - (sum of s^2) / n takes out what noise alone
    adds to the length of a mean. They say little while weights move fast.
    """
    n, mean, squares = moments
    if n < 2:
        return {}
    variance = squares / (n - 1)
    reached = (mean != 0) | (variance > 0)
    mean, variance = mean[reached], variance[reached]
    noise = float(variance.sum())
    signal = max(float(mean.square().sum()) - noise / n, 0.0)
    return {
        "gradient_snr": math.sqrt(signal / noise) if noise > 0 else math.inf,
        "gradient_snr_per_weight": float((mean.abs() / variance.sqrt()).mean()),
    }
