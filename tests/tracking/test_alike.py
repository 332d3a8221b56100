"""Videos of one face under two names."""

from __future__ import annotations

import torch

from rome_lightning.tracking import identity


def test_pairs_of_different_people_only_the_most_similar_first(monkeypatch):
    monkeypatch.setattr(identity, "_BLOCK", 8)
    generator = torch.Generator().manual_seed(0)
    faces = torch.nn.functional.normalize(torch.randn(30, 4, generator=generator), dim=1)
    people = [f"person-{number // 3}" for number in range(30)]
    expected = [
        (i, j, float(faces[i] @ faces[j]))
        for i in range(30)
        for j in range(i + 1, 30)
        if people[i] != people[j] and float(faces[i] @ faces[j]) >= 0.5
    ]
    expected.sort(key=lambda pair: -pair[2])
    pairs, total = identity.alike(faces, people, 0.5, 1000)
    assert total == len(expected) > 20
    assert {pair[:2] for pair in pairs} == {pair[:2] for pair in expected}
    # Sums in another order differ in the last digits.
    torch.testing.assert_close([p[2] for p in pairs], [p[2] for p in expected], rtol=1e-6, atol=1e-6)
    few, total = identity.alike(faces, people, 0.5, 5)
    assert (few, total) == (pairs[:5], len(expected))
    assert identity.alike(faces[:1], people[:1], 0.5, 5) == ([], 0)
