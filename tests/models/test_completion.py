"""Hidden texels come from the other side, then from the same region."""

import pytest
import torch

from rome_lightning.head import load_head
from rome_lightning.models.completion import FACE_COLOUR, FILL_REGIONS, NECK, Completion
from rome_lightning.models.interior import TEETH
from rome_lightning.renderer import UVLayout, sample_texture

SIZE = 128


@pytest.fixture(scope="module")
def completion() -> Completion:
    head = load_head("open")
    return Completion(head, UVLayout(head.faces, head.uvs, head.uv_faces, SIZE))


@pytest.fixture(scope="module")
def side(completion: Completion) -> torch.Tensor:
    """x of each texel's surface point, positive on the subject's left."""
    head = load_head("open")
    layout = UVLayout(head.faces, head.uvs, head.uv_faces, SIZE)
    return layout.gather(head.to_vertices(head.template.view(-1, 3))[None])[:, :1]


def region(completion: Completion, name: str) -> torch.Tensor:
    index = next(i for i, names in enumerate(FILL_REGIONS) if name in names)
    return completion.regions[None, index] > 0.99


def test_a_hidden_side_takes_the_colours_of_the_other(completion: Completion, side: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 16, generator=generator), (SIZE, SIZE))
    symmetric = 0.2 + 0.3 * (noise + noise.flip(-1))
    # The middle is visible too, so that the symmetry can be measured.
    seen = ((side < 0.02) & (completion.charts > 0)).float()
    completed, known = completion(symmetric, seen, torch.zeros_like(seen))
    face = region(completion, "face")
    hidden = face & (seen == 0) & (side > 0.03)
    assert hidden.sum() > 200
    assert known[hidden].mean() > 0.8
    error = (completed - symmetric).abs().mean(1, keepdim=True)
    naive = (symmetric - symmetric[:, :, face[0, 0]].mean()).abs().mean(1, keepdim=True)
    assert error[hidden].mean() < 0.4 * naive[hidden].mean()


def test_skin_at_the_outline_is_filled_and_hair_there_is_kept(
    completion: Completion, side: torch.Tensor
) -> None:
    """At the outline, a photograph shows a cheek in shadow or lit from behind, over a band."""
    flat = (side.abs() > 0.061) & (completion.charts > 0)
    colour = torch.where(flat, 0.1, 0.6).expand(-1, 3, -1, -1)
    # Both sides are equally visible, so that nothing comes from the other one.
    seen = torch.where(side.abs() > 0.05, 0.12, 1.0) * completion.charts
    # Hair, so that the scalp is filled from itself alone.
    completed, _ = completion(colour, seen, region(completion, "scalp").float())
    face, scalp = (region(completion, name) & flat for name in ("face", "scalp"))
    assert completed[:, :1][face & (completion.enough > 0.69)].mean() > 0.15
    kept = scalp & (completion.enough < 0.21) & (seen > 0.11)
    assert kept.sum() > 500
    assert (completed[:, :1][kept] - 0.1).abs().median() < 1e-3


def test_the_sides_of_a_face_have_the_hue_of_its_middle_and_a_beard_keeps_its_own(
    completion: Completion, side: torch.Tensor
) -> None:
    """Sheen turns skin grey at grazing angles; a beard differs by more."""
    middle = torch.tensor([0.7, 0.45, 0.4])[:, None, None]
    aside = (side.abs() > 0.038) & (completion.charts > 0)
    face = (completion.sheen > 0.99) & (side.abs() > 0.042) & (side.abs() < 0.06)
    assert face.sum() > 100

    def hue(colour: torch.Tensor) -> torch.Tensor:
        return (colour / colour.mean(1, keepdim=True)).movedim(1, -1)

    expected = hue(middle[None])[0, 0, 0]
    for grey, left in ((0.1, 0.15), (1.0, 0.5)):
        dull = torch.lerp(middle, middle.mean(0, keepdim=True), grey)
        colour = torch.where(aside, dull, middle)
        completed, _ = completion(colour, completion.charts.clone(), torch.zeros_like(side))
        before = (hue(colour)[face[:, 0]] - expected).abs().mean()
        after = (hue(completed)[face[:, 0]] - expected).abs().mean()
        assert (after < left * before) == (grey < 1)
        lightness = (completed - colour).mean(1, keepdim=True)[face]
        assert lightness.abs().max() < 0.02


def test_light_from_one_side_stays_on_its_side(completion: Completion, side: torch.Tensor) -> None:
    lit = torch.where(side > 0, 0.4, 0.6).expand(-1, 3, -1, -1)
    seen = ((side < 0.04) & (completion.charts > 0)).float()
    other, _, _ = completion.other_side(lit, torch.zeros_like(seen), seen)
    hidden = region(completion, "face") & (seen == 0) & (side > 0.045)
    assert (other[:, :1][hidden] - 0.4).abs().mean() < 0.03


def test_an_asymmetric_face_is_not_repeated(completion: Completion, side: torch.Tensor) -> None:
    colour = torch.where(
        side > 0,
        torch.tensor([0.9, 0.1, 0.1]).view(1, 3, 1, 1),
        torch.tensor([0.1, 0.1, 0.9]).view(1, 3, 1, 1),
    )
    seen = ((side < 0.04) & (completion.charts > 0)).float()
    _, _, trust = completion.other_side(colour, torch.zeros_like(seen), seen)
    hidden = region(completion, "face") & (seen == 0) & (side > 0.045)
    assert trust[hidden].mean() < 0.3


def test_regions_are_filled_from_themselves(completion: Completion, side: torch.Tensor) -> None:
    colours = {
        "face": (0.8, 0.6, 0.5),
        "scalp": (0.1, 0.1, 0.1),
        "neck": (0.7, 0.5, 0.4),
        "shoulders": (0.1, 0.2, 0.7),
    }
    truth = torch.zeros(1, 3, SIZE, SIZE)
    for name, colour in colours.items():
        index = next(i for i, names in enumerate(FILL_REGIONS) if name in names)
        mostly = completion.regions.argmax(0)[None] == index
        truth = torch.where(mostly, torch.tensor(colour).view(1, 3, 1, 1), truth)
    # Only the middle of the head and of each shoulder is visible.
    seen = ((side.abs() < 0.03) & (completion.charts > 0)).float()
    hair = region(completion, "scalp").float()
    completed, _ = completion(truth, seen, hair)
    for name in colours:
        where = region(completion, name) & (seen == 0)
        error = (completed - truth).abs().mean(1, keepdim=True)[where]
        assert error.median() < 0.05, name


def test_nothing_seen_is_finite(completion: Completion) -> None:
    nothing = torch.zeros(1, 1, SIZE, SIZE)
    completed, known = completion(torch.rand(1, 3, SIZE, SIZE), nothing, nothing)
    assert completed.isfinite().all()
    assert known.max() == 0


@pytest.mark.parametrize("hangs", [False, True])
def test_a_nape_that_nobody_sees_is_skin_unless_hair_hangs_over_the_neck(
    completion: Completion, hangs: bool
) -> None:
    """Bright face; dark hair above the ears; below them dark hair too, or a dark collar, not skin."""
    head = load_head("open")
    mean = head.to_vertices(head.template.unflatten(0, (-1, 3)))
    layout = UVLayout(head.faces, head.uvs, head.uv_faces, completion.regions.shape[-1])
    height, depth = layout.gather(mean[None])[0, 1:]
    scalp = layout.gather(head.region("scalp").float()[None, :, None])[0, 0] > 0.99
    low = mean[head.region("ears"), 1].min()
    face, neck = (region(completion, name)[0, 0] & (depth > 0) for name in ("face", "neck"))
    hair = scalp & (height > low + 0.02)
    known = (hair | neck | face).float()[None, None]
    colour = torch.where(face, 0.8, 0.1).expand(1, 3, -1, -1)
    filled, _ = completion(colour, known, (hair | (neck & hangs)).float()[None, None])
    nape = filled[0, :, scalp & (height < low - 0.005)]
    assert nape.numel()
    assert (nape.mean() < 0.3) if hangs else (nape.mean() > 0.7)


def test_both_sides_meet_at_the_back_without_a_seam(completion: Completion, side: torch.Tensor) -> None:
    """Hair is light on one side and dark on the other; at the back, a chart's border lies between them."""
    head = load_head("open")
    layout = UVLayout(head.faces, head.uvs, head.uv_faces, SIZE)
    front = layout.gather(head.to_vertices(head.template.view(-1, 3))[None])[:, 2:] > 0.02
    colour = torch.where(side > 0, 0.8, 0.2).expand(-1, 3, -1, -1)
    seen = (front & (completion.charts > 0)).float()
    completed, _ = completion(colour, seen, torch.ones_like(seen))
    # Every corner of the scalp's triangles: its vertex, its place in the texture, the colour there.
    scalp = head.region("scalp")[head.faces].all(1)
    vertices, uvs = head.faces[scalp].flatten(), head.uvs[head.uv_faces[scalp].flatten()]
    colours = sample_texture(completed, uvs.T[None, :, None])[0, 0, 0]

    def spread(values: torch.Tensor) -> torch.Tensor:
        """Difference of the values at the corners of each vertex."""
        most, least = (
            values.new_zeros(head.num_vertices).scatter_reduce(0, vertices, values, kind, include_self=False)
            for kind in ("amax", "amin")
        )
        return most - least

    on_seam = spread(uvs[:, 0]) > 0.5
    assert on_seam.sum() > 10
    # A texel is about two centimetres wide here.
    assert spread(colours)[on_seam].max() < 0.12


def test_a_hidden_cheek_has_the_grain_of_the_skin_beside_it_but_not_its_marks(
    completion: Completion, side: torch.Tensor
) -> None:
    generator = torch.Generator().manual_seed(0)
    grain = 0.03 * torch.randn(1, 1, SIZE, SIZE, generator=generator)
    # Both outlines are hidden, so that neither side can give the other anything.
    shown = (side.abs() < 0.04) & (completion.charts > 0)
    marks = torch.rand(1, 1, SIZE, SIZE, generator=generator) < 0.02
    colour = torch.where(marks, 0.1, 0.6 + grain).expand(-1, 3, -1, -1)
    completed, _ = completion(colour, shown.float(), torch.zeros_like(side))
    hidden = (completion.hairless > 0.99) & (side.abs() > 0.045) & (side.abs() < 0.06)
    assert hidden.sum() > 100
    # Other faults would leave the fill flat, or repeat the dark marks.
    filled = completed[:, :1][hidden]
    assert filled.std() > 0.015
    assert filled.min() > 0.45


def test_the_rim_of_spectacles_does_not_emboss_the_hidden_cheek(
    completion: Completion, side: torch.Tensor
) -> None:
    generator = torch.Generator().manual_seed(0)
    colour = 0.6 + 0.005 * torch.randn(1, 3, SIZE, SIZE, generator=generator)
    # The upper squares of both cheeks have a rim.
    for square in completion.cheeks[::2]:
        colour.flatten(2)[..., square[:, 1::3].flatten()] += 0.05
    shown = (side.abs() < 0.04) & (completion.charts > 0)
    completed, _ = completion(colour, shown.float(), torch.zeros_like(side))
    hidden = (completion.hairless > 0.99) & (side.abs() > 0.045) & (side.abs() < 0.06)
    assert completed[:, :1][hidden].std() < 0.012


def teeth_of(completion: Completion, face: tuple[float, float, float]) -> torch.Tensor:
    """Colour of the least saturated part of the mouth of a person with a face of one colour."""
    colour = torch.tensor(face)[:, None, None].expand(1, 3, SIZE, SIZE)
    seen = completion.charts * (1 - completion.is_interior)
    mouth = completion(colour, seen, torch.zeros_like(seen))[0][:, :, completion.is_mouth[0, 0] > 0.99][0]
    teeth = mouth.amin(0).argsort()[-mouth.shape[1] // 50 :]
    return mouth[:, teeth].mean(1)


def test_teeth_are_in_the_light_of_the_face(completion: Completion) -> None:
    usual = teeth_of(completion, FACE_COLOUR)
    assert (usual / usual.sum() - torch.tensor(TEETH) / sum(TEETH)).abs().max() < 0.02
    red, green, blue = FACE_COLOUR
    # In yellow light teeth are yellow.
    yellow = teeth_of(completion, (red, green, blue / 2)) / usual
    assert yellow[:2].tolist() == pytest.approx([1, 1], abs=0.01)
    assert float(yellow[2]) == pytest.approx(0.5**0.57, abs=0.03)
    # A face half as bright has teeth more than half as bright.
    dark = teeth_of(completion, (red / 2, green / 2, blue / 2)) / usual
    assert dark.tolist() == pytest.approx([0.5**0.57] * 3, abs=0.03)
    grey = teeth_of(completion, (0.5, 0.5, 0.5))
    assert float(grey.max() - grey.min()) < 0.01


@pytest.mark.parametrize("with_piece", [False, True])
def test_hair_that_nobody_sees_has_strands_everywhere(
    completion: Completion, side: torch.Tensor, with_piece: bool
) -> None:
    """Also in rows of the texture in which a photograph shows no hair, or only a narrow piece."""
    generator = torch.Generator().manual_seed(0)
    strands = 0.05 * torch.randn(1, 1, SIZE, SIZE, generator=generator)
    scalp = region(completion, "scalp")
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    rows, columns = rows.expand_as(scalp), columns.expand_as(scalp)
    top = rows < rows[scalp].float().quantile(0.3)
    # Its contrast is ten times as large: repeated, it would show.
    piece = (columns < columns[scalp & ~top].min() + 2) & ~top & with_piece
    colour = torch.where(piece, 0.3 + 10 * strands, 0.3 + strands).clamp(0, 1).expand(-1, 3, -1, -1)
    shown = (scalp & (top | piece) & (side < 0.02)).float()
    completed, _ = completion(colour, shown, shown)
    hidden = scalp & ~top & (columns > columns[scalp & ~top].min() + 8)
    assert hidden.sum() > 500
    assert 0.02 < completed[:, :1][hidden].std() < 0.1


def test_hair_over_an_ear_does_not_colour_the_cheek_nor_skin_the_ear(
    completion: Completion, side: torch.Tensor
) -> None:
    ears, face = region(completion, "ears"), region(completion, "face")
    colour = torch.where(ears, 0.1, 0.6).expand(-1, 3, -1, -1)
    hidden = face & (side.abs() > 0.035)
    under = ears & (torch.rand(ears.shape, generator=torch.Generator().manual_seed(0)) < 0.3)
    seen = ((completion.charts > 0) & ~hidden & ~under).float()
    completed, _ = completion(colour, seen, ears.float())
    beside = hidden & (side.abs() > 0.06) & (completion.is_interior < 0.01)
    assert min(beside.sum(), under.sum()) > 50
    assert completed[:, :1][beside].mean() > 0.55
    assert completed[:, :1][under].mean() < 0.2


def test_what_a_neck_takes_from_its_other_side_is_smooth(completion: Completion, side: torch.Tensor) -> None:
    """Its texels are several pixels wide: the edge of a collar would be a comb."""
    stripes = (torch.arange(SIZE) // 2 % 2).float().expand(1, 3, SIZE, SIZE)
    seen = completion.charts * (side > 0)
    completed, _ = completion(stripes, seen, torch.zeros_like(side))
    neck = (completion.regions[NECK] > 0.99) & (side.abs() > 0.02)
    shown, hidden = (completed[:, :1][neck & (seen == shown)] for shown in (1, 0))
    assert hidden.numel() > 50
    assert hidden.std() < 0.35 * shown.std()


def test_a_collar_that_sits_higher_on_one_side_is_repeated_and_a_scarf_on_one_side_is_not(
    completion: Completion, side: torch.Tensor
) -> None:
    """Sides of a neck whose patterns do not meet are alike; a face must be alike in every texel."""
    seen = ((side < 0.04) & (completion.charts > 0)).float()
    rows = torch.arange(SIZE)[:, None].expand(1, 1, SIZE, SIZE)
    shifted = torch.where(side > 0, rows + 2, rows) % 4 < 2
    scarf = side > 0
    neck, face = (region(completion, name) & (side > 0.05) & (seen == 0) for name in ("neck", "face"))
    assert neck.sum() > 200
    assert face.sum() > 200
    known = {}
    for name, pattern in (("collar", shifted), ("scarf", scarf)):
        colour = torch.where(pattern, 0.9, 0.3).expand(-1, 3, -1, -1)
        _, trust = completion(colour, seen, torch.zeros_like(side))
        known[name] = float(trust[neck].mean()), float(trust[face].mean())
    assert known["collar"][0] > 0.5 > 0.2 > known["collar"][1]
    assert known["scarf"][0] < 0.2


def test_a_hidden_neck_is_never_brighter_than_its_other_side(
    completion: Completion, side: torch.Tensor
) -> None:
    """Where collars do not meet, skin is compared with cloth: the copy would be too bright below the ear."""
    seen = ((side < 0.04) & (completion.charts > 0)).float()
    colour = torch.where(side > 0, 0.6, 0.5).expand(-1, 3, -1, -1)
    completed, _ = completion(colour, seen, torch.zeros_like(side))
    hidden = (region(completion, "neck") & (side > 0.06) & (side < 0.08)).expand_as(colour)
    assert hidden.sum() > 100
    assert (completed[hidden].mean() - 0.5).abs() < 0.02
