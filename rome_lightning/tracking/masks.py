"""Regions and mattes of the frames of a clip."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from rome_lightning.networks.fast.eight_bit import has_byte_products
from rome_lightning.tracking.carried_masks import CarryRule, Masks, carry
from rome_lightning.tracking.detector import Progress
from rome_lightning.tracking.matting import Matter, bounded_matte
from rome_lightning.tracking.segmenter import Segmenter


@dataclass(frozen=True)
class MaskMaker:
    """Regions and mattes by the networks, or carried from neighbouring frames."""

    segmenter: Segmenter
    matter: Matter
    rule: CarryRule | None
    """When the masks of every second frame are carried; None computes all."""

    def make(
        self, images: UInt8[np.ndarray, "n s s 3"], progress: Progress | None = None
    ) -> tuple[UInt8[Tensor, "n s s"], Float[Tensor, "n s s"]]:
        """Labels and opacity, half precision.

        Args:
            images: RGB, frames of a clip in order.
            progress: called after each computed frame.
        """
        count = len(images)
        if self.rule is None or count < 3:
            return self._computed(images, progress)
        labels = torch.empty(images.shape[:3], dtype=torch.uint8)
        matte = torch.empty(images.shape[:3], dtype=torch.float16)
        # Of an even number the last frame has no neighbour behind it.
        between = [*range(1, count - 1, 2)]
        computed = sorted({*range(count)} - {*between})
        labels[computed], matte[computed] = self._computed(images[computed], progress)
        left = self._carried(images, between, labels, matte, self.rule)
        if left:
            labels[left], matte[left] = self._computed(images[left], progress)
        return labels, matte

    @staticmethod
    def _carried(
        images: UInt8[np.ndarray, "n s s 3"],
        between: Sequence[int],
        labels: UInt8[Tensor, "n s s"],
        matte: Float[Tensor, "n s s"],
        rule: CarryRule,
    ) -> list[int]:
        """Write the masks that can be carried; returns the frames whose masks cannot."""
        left = []
        threads = cv2.getNumThreads()
        # Flow depends on the number of threads that share it.
        cv2.setNumThreads(1)
        try:
            for index in between:
                before, after = (
                    Masks(labels[other].numpy(), matte[other].float().numpy())
                    for other in (index - 1, index + 1)
                )
                carried = carry(images[index - 1 : index + 2], before, after, rule)
                if carried is None:
                    left.append(index)
                else:
                    labels[index], matte[index] = (torch.from_numpy(part) for part in carried)
        finally:
            cv2.setNumThreads(threads)
        return left

    def _computed(
        self, images: UInt8[np.ndarray, "n s s 3"], progress: Progress | None
    ) -> tuple[UInt8[Tensor, "n s s"], Float[Tensor, "n s s"]]:
        """By the networks; both libraries' run at once, on a core each, if torch may use two."""
        # Ours share torch's threads.
        if torch.get_num_threads() < 2 or has_byte_products():
            segmentation = self.segmenter.segment(images, progress)
            matte = self.matter.matte(images, None, progress)
        else:
            with ThreadPoolExecutor(1) as pool:
                alpha = pool.submit(self.matter.matte, images, None, progress)
                segmentation = self.segmenter.segment(images, progress)
                matte = alpha.result()
        for index in range(len(images)):
            matte[index] = bounded_matte(matte[index, None], segmentation.person[index, None])[0]
        return segmentation.labels, matte
