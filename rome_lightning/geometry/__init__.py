"""Geometry with one set of conventions.

- **Head space**: metres, right-handed, +x to the subject's left (right in the image of a subject who
  faces the camera), +y up, +z out of the face, as in glTF. The origin is the head model's own.
- **Camera**: weak perspective. Points are rotated by ``global_pose`` about the head's root, then
  ``x_ndc = s (X + t_x)``, ``y_ndc = -s (Y + t_y)``, ``z_ndc = -s Z``; the viewer looks along -z.
- **NDC**: x right, y down, both in [-1, 1] across the image; smaller z is nearer.
- **Pixels**: x right, y down, the centre of the top-left pixel is (0, 0), so
  ``x_px = (x_ndc + 1) W / 2 - 1/2``. z is scaled by W / 2 too: one unit is one pixel on all axes.
- **UV**: u right, v down, both in [0, 1]; the centre of texel (i, j) of a texture of size S is
  ``((j + 1/2) / S, (i + 1/2) / S)``, which is ``grid_sample(align_corners=False)`` at ``2 uv - 1``.
- **Triangles** are counter-clockwise seen from outside, so ``cross(b - a, c - a)`` points outward.
"""

from rome_lightning.geometry.alignment import similarity
from rome_lightning.geometry.camera import ndc_to_pixels, pixels_to_ndc, project, rotate_about
from rome_lightning.geometry.mesh import face_normals, unique_edges, vertex_normals
from rome_lightning.geometry.precision import full_precision
from rome_lightning.geometry.rotations import axis_angle_to_matrix, matrix_to_axis_angle

__all__ = [
    "axis_angle_to_matrix",
    "face_normals",
    "full_precision",
    "matrix_to_axis_angle",
    "ndc_to_pixels",
    "pixels_to_ndc",
    "project",
    "rotate_about",
    "similarity",
    "unique_edges",
    "vertex_normals",
]
