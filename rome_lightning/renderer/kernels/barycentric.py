"""Barycentric weights at pixel centres, shared by interpolation and texture lookup."""
# Kernels are written in Warp's language, which has Python's syntax but confuses mypy.
# mypy: ignore-errors

import warp as wp


@wp.struct
class Slopes:
    """How the barycentric weights of a triangle change per pixel."""

    along_x: wp.vec3
    along_y: wp.vec3


@wp.func
def weights_at(a: wp.vec3, b: wp.vec3, c: wp.vec3, column: wp.int32, row: wp.int32) -> wp.vec3:
    """Barycentric weights of a triangle at a pixel centre."""
    px = wp.float32(column)
    py = wp.float32(row)
    x = wp.vec3(a[0] - px, b[0] - px, c[0] - px)
    y = wp.vec3(a[1] - py, b[1] - py, c[1] - py)
    parts = wp.vec3(x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0])
    if parts[0] + parts[1] + parts[2] < 0.0:
        parts = -parts
    parts = wp.vec3(wp.max(parts[0], 0.0), wp.max(parts[1], 0.0), wp.max(parts[2], 0.0))
    total = parts[0] + parts[1] + parts[2]
    if total > 0.0:
        return parts / total
    return wp.vec3()


@wp.func
def slopes_of(a: wp.vec3, b: wp.vec3, c: wp.vec3) -> Slopes:
    """The same for all pixels of a triangle; 0 where it has no area."""
    result = Slopes()
    area = (b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1])
    if area != 0.0:
        inverse = 1.0 / area
        result.along_x = wp.vec3(b[1] - c[1], c[1] - a[1], a[1] - b[1]) * inverse
        result.along_y = wp.vec3(c[0] - b[0], a[0] - c[0], b[0] - a[0]) * inverse
    return result
