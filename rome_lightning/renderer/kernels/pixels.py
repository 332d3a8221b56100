"""Functions shared by kernels that visit pixels."""
# Kernels are written in Warp's language, which has Python's syntax but confuses mypy.
# mypy: ignore-errors

import warp as wp


@wp.func
def first_centre(position: wp.float64, size: wp.int32) -> wp.int32:
    """Smallest pixel centre that is not before a position, limited to the image."""
    limited = wp.clamp(position, wp.float64(0.0), wp.float64(size))
    # Truncation and a comparison: a call of the C library's ceil costs more than the rest of the loop.
    centre = wp.int32(limited)
    if wp.float64(centre) < limited:
        centre += 1
    return centre


@wp.func
def first_centre(position: wp.float32, size: wp.int32) -> wp.int32:  # noqa: F811 (an overload)
    """The same in float32, which is exact too."""
    limited = wp.clamp(position, 0.0, wp.float32(size))
    centre = wp.int32(limited)
    if wp.float32(centre) < limited:
        centre += 1
    return centre


@wp.struct
class Box:
    """Pixel centres within the extent of a triangle: first column and row, and those after the last."""

    left: wp.int32
    top: wp.int32
    right: wp.int32
    bottom: wp.int32


@wp.func
def centres_within(
    a: wp.vec3, b: wp.vec3, c: wp.vec3, reach: wp.float32, height: wp.int32, width: wp.int32
) -> Box:
    """Box of a triangle that is widened by a reach on all sides."""
    result = Box()
    result.left = first_centre(wp.min(wp.min(a[0], b[0]), c[0]) - reach, width)
    result.top = first_centre(wp.min(wp.min(a[1], b[1]), c[1]) - reach, height)
    result.right = first_centre(wp.max(wp.max(a[0], b[0]), c[0]) + reach, width)
    result.bottom = first_centre(wp.max(wp.max(a[1], b[1]), c[1]) + reach, height)
    return result


@wp.func
def ordered_bits(depth: wp.float32) -> wp.int64:
    """Bits of a float32 as an integer in the same order."""
    bits = wp.cast(depth, wp.int32)
    return wp.int64(bits ^ ((bits >> 31) & 0x7FFFFFFF))
