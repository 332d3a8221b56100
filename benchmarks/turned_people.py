"""Pictures of people nobody trained on, turned to both sides, and blind pairs of two versions for a judge.

``python benchmarks/turned_people.py draw FACES OUT [--checkpoint NAME]`` draws 40 people of the validation
split of open-faces, each beside the photograph; FACES is the folder of ``rome assets fetch open-faces``.
Run it with two versions of the package, then

``python benchmarks/turned_people.py pair OLD NEW OUT`` writes one picture per person with the photograph and
both versions one above the other, in random order, and ``key.csv``, which says where the new version is:
keep it from the judge. Scores of turned heads hardly see what a photograph hides; people do.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
from first_picture import TURN_DEG, posed, row
from PIL import Image

from datamodules.prepare.config import PrepareConfig
from datamodules.prepare.inputs import splits_of
from rome_lightning import Avatar
from rome_lightning.assets.open_faces import Photograph, open_faces
from rome_lightning.avatar.making import photo_tracker, read_person
from rome_lightning.media.image import to_uint8, write_png
from rome_lightning.models.shipped import open_model

PEOPLE = {"interfaces": 6, "london": 6, "canada": 3, "congress": 25}
"""How many of each set; portraits of members of congress are many and alike."""
GAP = 6
"""Black rows between both versions."""


def unseen_people() -> list[Photograph]:
    """One photograph of each person to draw, by set and name."""
    first = {photograph.identity: photograph for photograph in reversed(open_faces())}
    splits = splits_of(first, PrepareConfig())
    of_set = defaultdict(list)
    for identity in sorted(first):
        if splits[identity] == "val":
            of_set[first[identity].group].append(first[identity])
    return [photograph for group, count in PEOPLE.items() for photograph in of_set[group][:count]]


def draw(faces: Path, out: Path, checkpoint: str | None) -> None:
    """Draw each person who has no picture yet."""
    out.mkdir(parents=True, exist_ok=True)
    model = open_model(checkpoint)
    tracker = photo_tracker(model)
    people = unseen_people()
    for index, person in enumerate(people, start=1):
        target = out / f"{person.identity}.png"
        if not target.exists():
            avatar = Avatar.create(model, read_person(tracker, [faces / person.file], print))
            turned = [next(avatar.draw(posed(avatar, yaw))).image for yaw in (-TURN_DEG, TURN_DEG)]
            write_png(target, to_uint8(row([avatar.source.image, *turned])))
        print(f"{index} of {len(people)}: {target}", flush=True)


def pair(old: Path, new: Path, out: Path, seed: int) -> None:
    """Write the pairs of everybody whom both versions drew, and the key."""
    names = sorted({path.name for path in old.glob("*.png")} & {path.name for path in new.glob("*.png")})
    if not names:
        raise SystemExit(f"error: {old} and {new} have no picture of the same person; run draw for both")
    out.mkdir(parents=True, exist_ok=True)
    order = random.Random(seed)
    key = [("picture", "person", "new version")]
    for index, name in enumerate(names):
        new_on_top = order.random() < 0.5
        upper, lower = (
            np.array(Image.open(folder / name)) for folder in ((new, old) if new_on_top else (old, new))
        )
        # The photograph once, so that nothing but the views differs.
        lower[:, : lower.shape[0]] = 255
        gap = np.zeros((GAP, *upper.shape[1:]), np.uint8)
        write_png(out / f"{index:02d}.png", np.concatenate([upper, gap, lower]))
        key.append((f"{index:02d}", name.removesuffix(".png"), "top" if new_on_top else "bottom"))
    with (out / "key.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(key)


def main() -> None:
    """Draw people, or pair the pictures of two versions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw", help="draw the people with this version of the package")
    drawing.add_argument("faces", type=Path, help="folder of rome assets fetch open-faces")
    drawing.add_argument("out", type=Path)
    drawing.add_argument("--checkpoint", help="name or file of a model; the shipped one by default")
    pairing = commands.add_parser("pair", help="blind pairs of two versions")
    for name in ("old", "new", "out"):
        pairing.add_argument(name, type=Path)
    pairing.add_argument("--seed", type=int, default=0, help="of the order")
    options = parser.parse_args()
    if options.command == "draw":
        draw(options.faces, options.out, options.checkpoint)
    else:
        pair(options.old, options.new, options.out, options.seed)


if __name__ == "__main__":
    main()
