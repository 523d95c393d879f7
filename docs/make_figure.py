"""Make docs/figure.png: one phantom scan, lines in a fixed order, and as the evaluator chose."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from activemri.agents.order import FixedOrder, learn_lbcs_order
from activemri.agents.policy import Policy
from activemri.agents.registry import make_policy
from activemri.agents.rollout import rollout
from activemri.data.slices import Slice
from activemri.data.sources import open_dataset
from activemri.envs import rendering
from activemri.envs.picture import scan_picture
from activemri.envs.protocol import EnvOptions
from activemri.envs.scan import Scan, State

SCAN = 6  # of the val split: an axial head with fine stripes


def main() -> None:
    """Write the figure beside this file."""
    torch.set_num_threads(1)
    scans = open_dataset("phantom", split="val")
    train = open_dataset("phantom", split="train")
    task = EnvOptions(data=scans, reconstructor="cresnet", budget=24, n_center_lines=8)
    protocol = task.scan(scans)
    cheap = EnvOptions(data=scans, budget=24, n_center_lines=8).scan(scans)
    order = learn_lbcs_order(cheap, [train[i] for i in range(0, 200, 4)])
    policies: tuple[Policy, ...] = (FixedOrder(order, "lbcs"), make_policy("evaluator-greedy"))
    pictures = [last_frame(protocol, policy, scans[SCAN]) for policy in policies]
    Image.fromarray(np.concatenate(pictures, axis=1)).save(
        Path(__file__).parent / "figure.png", optimize=True
    )


def last_frame(protocol: Scan, policy: Policy, scan: Slice) -> NDArray[np.uint8]:
    """The rendered end of an episode."""
    states: list[State] = []
    episodes = rollout(protocol, policy, [scan], on_step=lambda _, s: states.append(s.clone()))
    frame = scan_picture(
        protocol.view(states[-1]),
        states[-1].secret.slices[0],
        actions=episodes.actions[0].tolist(),
        scores=episodes.scores["ssim"][0].tolist(),
        score_name="ssim",
    )
    return rendering.draw(frame, size=240)


if __name__ == "__main__":
    main()
