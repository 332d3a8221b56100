"""Weights of the landmark fit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FitSettings:
    """Weights of the fit; costs are means over landmarks of squared errors in iris distances."""

    oval_weight: float = 0.3
    """Of face-oval landmarks, which slide on the silhouette."""
    lips_weight: float = 2.0
    """Weight of lip landmarks."""
    lids_weight: float = 3.0
    """Weight of eyelid landmarks, which move little but matter a lot."""
    soft_threshold: float = 0.03
    """Error, in iris distances, from which the cost grows linearly (soft L1)."""
    shape_prior: float = 2e-6
    """Cost of a squared standard deviation of identity."""
    smile_shape: float = 10.0
    """Factor on that cost while the expressions of somebody who smiles are estimated; the identity is then
    estimated again at its usual cost. Otherwise part of the smile would pass for the person's own mouth."""
    expression_prior: float = 2e-4
    """Cost of the squared difference between an expression weight and the detector's score."""
    eye_prior: float = 1e-3
    """Cost of the squared difference in gaze between the two eyes, radians."""
    gaze_prior: float = 3e-6
    """Cost of the squared gaze itself; at 1e-4, eyes would turn a fifth to a third less than irises show."""
    silhouette_weight: float = 0.1
    """Cost of the mean squared distance of skull and ears outside the person, in squared iris distances."""
    max_keyframes: int = 24
    """Frames that the identity is estimated from."""
    shape_steps: int = 7
    """Gauss-Newton steps of the identity."""
    frame_steps: int = 5
    """Gauss-Newton steps of each frame."""
    refine_pose: bool = True
    """Whether the poses of a clip are refined by optical flow, where its pictures are given."""
    flow_prior: float = 12.0
    """Cost of a squared radian, logarithm of the scale, or iris distance by which a round of that refinement
    moves a pose, in squared pixels of flow."""
    smooth_pose: bool = True
    """Whether rotation and camera are smoothed over five frames, without lag; expression never is."""
    smooth_limit: float = 0.008
    """Movement of the landmarks, in iris distances, at which the smoothing has faded to one half."""
    scale_sigma: float = 4.0
    """Frames over which the scale is averaged where the pose is smoothed."""
    neck_sigma: float = 2.0
    """Frames over which the place of the neck in the image is averaged where the pose is smoothed."""
    shoulder_sigma: float = 12.0
    """Frames over which the place of the shoulders in the image is averaged; they follow slow motion only."""
    track_torso: bool = True
    """Whether the shoulders of a clip follow its pictures, where they are given; see ``torso``."""
    torso_sigma: float = 2.0
    """Frames over which the evidence about the torso is averaged."""
    bust_prior: float = 1e-3
    """Cost of a squared radian by which the shoulders turn away from ``bust_share``, squared metres."""
    bust_sigma: float = 40.0
    """Frames over which the rotation of the bust is averaged."""
    bust_share: tuple[float, float, float] = (0.3, 0.5, 0.2)
    """Part of the averaged head rotation (pitch, yaw, roll) that the shoulders follow."""
