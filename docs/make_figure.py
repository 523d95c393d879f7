"""Make docs/figure.png: one phantom scan, lines in a fixed order, and as the evaluator chose."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import activemri as am
from activemri.agents.order import fit_order
from activemri.envs import rendering
from activemri.envs.scan import State

SCAN = 6  # of the val split: an axial head with fine stripes


def main() -> None:
    """Write the figure beside this file."""
    torch.set_num_threads(1)
    protocol = am.ScanProtocol(data="phantom", reconstructor="cresnet", budget=24)
    # Zero-filled images suffice for the order.
    cheap = am.ScanProtocol(data="phantom", budget=24)
    train = cheap.dataset("train")
    order = fit_order("lbcs", cheap.scan(train), [train[i] for i in range(0, 200, 4)])
    policies = order, am.make_policy("evaluator-greedy")
    pictures = [last_frame(protocol, policy) for policy in policies]
    Image.fromarray(np.concatenate(pictures, axis=1)).save(
        Path(__file__).parent / "figure.png", optimize=True
    )


def last_frame(protocol: am.ScanProtocol, policy: am.Policy) -> NDArray[np.uint8]:
    """The rendered end of an episode."""
    states: list[State] = []
    scan = protocol.dataset("val")[SCAN]
    played = am.rollout(protocol, policy, [scan], on_step=lambda _, s: states.append(s.clone()))
    frame = rendering.frame_of(
        states[-1].view,
        scan,
        actions=played.actions[0].tolist(),
        scores=played.scores["ssim"][0].tolist(),
        score_name="ssim",
    )
    return rendering.draw(frame, size=240)


if __name__ == "__main__":
    main()
