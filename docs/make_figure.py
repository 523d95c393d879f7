"""Make docs/figure.png: one phantom scan, lines in a fixed order, and as a policy chose.

The scan is nobody's choice: of one slice of each of the first subjects of the val split it is the
one whose gain over the order is the median.
"""

import textwrap
from dataclasses import replace

import numpy as np
import torch
from make_speed import ROOT, put
from PIL import Image

import activemri as am
from activemri.agents.registry import SHIPPED
from activemri.data.slices import Slice
from activemri.envs import rendering
from activemri.envs.rendering import Frame
from activemri.envs.scan import State
from activemri.reconstruction.registry import WEIGHTS

N_SUBJECTS = 21


def main() -> None:
    """Write the figure beside this file, and its caption in README.md."""
    torch.set_num_threads(1)
    protocol = am.ScanProtocol(data="phantom", reconstructor="cresnet", budget=24)
    # The order was learned for this reconstructor and score.
    policies = am.make_policy(WEIGHTS / "lbcs"), am.make_policy(SHIPPED["imitation"])
    dataset = protocol.dataset("val")
    per_subject: dict[str, int] = {}
    for place in range(len(dataset)):
        per_subject.setdefault(dataset.describe(place).subject, place)
    scans = [dataset[place] for place in list(per_subject.values())[:N_SUBJECTS]]
    order, policy = (am.rollout(protocol, one, scans).scores["ssim"][:, -1] for one in policies)
    gains = np.asarray(policy) - np.asarray(order)
    median = int(gains.argsort()[N_SUBJECTS // 2])
    frames = [last_frame(protocol, one, scans[median]) for one in policies]
    scores = [score for frame in frames for score in frame.scores]
    pictures = [
        rendering.draw(replace(frame, span=(min(scores), max(scores))), size=240)
        for frame in frames
    ]
    whole = np.concatenate(pictures, axis=1)
    Image.fromarray(whole).save(ROOT / "docs" / "figure.png", optimize=True)
    caption = (
        "One phantom scan with 24 lines beyond the 8 of its start, reconstructed by the network "
        "that comes along: left in a fixed order learned on other scans for this network and "
        "score, right as the policy that comes along chose them for this scan. Neither has "
        "seen the target. The scan is not picked by hand: of one scan of each of "
        f"{N_SUBJECTS} validation subjects it is the one with the median gain of the policy over "
        f"the order, {gains[median]:+.3f} in SSIM; the others have {gains.min():+.3f} to "
        f"{gains.max():+.3f}."
    )
    put(ROOT / "README.md", textwrap.fill(caption, 100), by="docs/make_figure.py")


def last_frame(protocol: am.ScanProtocol, policy: am.Policy, scan: Slice) -> Frame:
    """The end of an episode."""
    states: list[State] = []
    played = am.rollout(protocol, policy, [scan], on_step=lambda _, s: states.append(s.clone()))
    return rendering.frame_of(
        states[-1].view,
        scan,
        actions=played.actions[0].tolist(),
        scores=played.scores["ssim"][0].tolist(),
        score_name="ssim",
    )


if __name__ == "__main__":
    main()
