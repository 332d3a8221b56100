"""Index groups of MediaPipe's 478 face landmarks, and the five points of face recognition.

"Left" is the subject's left.
"""

from __future__ import annotations

NUM_LANDMARKS = 478
NUM_SKIN = 468
"""Landmarks before this index lie on the skin; the ten after it are the irises."""

RIGHT_IRIS = (468, 469, 470, 471, 472)
"""Centre, then four points of the ring."""
LEFT_IRIS = (473, 474, 475, 476, 477)

FOREHEAD, CHIN = 10, 152
"""Where the midline meets the hairline and the jaw."""

RIGHT_LIDS = (33, 7, 163, 144, 145, 153, 154, 155, 133, 246, 161, 160, 159, 158, 157, 173)
LEFT_LIDS = (263, 249, 390, 373, 374, 380, 381, 382, 362, 466, 388, 387, 386, 385, 384, 398)
RIGHT_EYE_CORNERS, LEFT_EYE_CORNERS = (33, 133), (362, 263)
NOSE_TIP = 4
MOUTH_CORNERS = (61, 291)

FIVE_POINTS = (RIGHT_EYE_CORNERS, LEFT_EYE_CORNERS, (NOSE_TIP,), *((corner,) for corner in MOUTH_CORNERS))
"""Groups whose means are the five points of face recognition, each eye by its corners."""
FIVE_POINTS_OF_IRISES = (RIGHT_IRIS[0], LEFT_IRIS[0], NOSE_TIP, *MOUTH_CORNERS)
"""The five points, each eye by its iris, as face detectors mark them."""
FIVE_POINT_TEMPLATE = (
    (38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041),
)  # fmt: skip
"""Where ArcFace and SFace expect the five points in an aligned face, pixels (x, y).

Source: the alignment of InsightFace.
"""
ALIGNED_FACE_SIZE = 112
"""Side of an aligned face, pixels."""

OUTER_LIPS = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409)
INNER_LIPS = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415)
EYE_OUTLINES = (
    (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
    (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249),
)
"""The edges of the lids of the right and the left eye in order all around."""
INNER_LIPS_OUTLINE = (*INNER_LIPS[:11], *reversed(INNER_LIPS[11:]))
"""The inner lips in order all around."""

# fmt: off
FACE_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)
"""The outline of the face; these points slide along the silhouette when the head turns."""

IBUG68 = (
    (127,), (234,), (93,), (132, 58), (58, 172), (136,), (150,), (176,), (152,),
    (400,), (379,), (365,), (397, 288), (361, 288), (323,), (454,), (356,),
    (70, 46), (63, 53), (105, 52), (66, 65), (107, 55),
    (336, 285), (296, 295), (334, 282), (293, 283), (300, 276),
    (6,), (197,), (195,), (4,), (240, 98), (97,), (2,), (326,), (460, 327),
    (33,), (160,), (158,), (133,), (153,), (144,), (362,), (385,), (387,), (263,), (373,), (380,),
    (61,), (39, 40), (37,), (0,), (267,), (269, 270), (291,), (405, 321), (314,), (17,), (84,), (181, 91),
    (78,), (81, 82), (13,), (312, 311), (308,), (317, 402), (14,), (87, 178),
)
"""MediaPipe landmarks whose mean is each point of the 68-point markup (from the subject's right jaw)."""
NOW_POINTS = (36, 39, 42, 45, 33, 48, 54)
"""The seven points of the NoW benchmark among the 68: corners of eyes and mouth, base of the nose."""
# fmt: on
