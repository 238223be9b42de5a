"""The style sheet: contrast, colours that the colour-blind tell apart, no motion, and paper."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import excise.report

STYLE = (Path(excise.report.__file__).parent / "style.css").read_text(encoding="utf-8")
TEXTS = ("ink", "soft", "pass", "fail", "inconclusive", "invalid")
SERIES = ("dot", "old", "third")

# Machado, Oliveira and Fernandes, A Physiologically-based Model for Simulation of Color Vision Deficiency, IEEE TVCG 2009:
# full severity, on linear RGB.
BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def palette(block):
    """The colours that a block of custom properties names, in linear RGB."""
    return {name: linear(value) for name, value in re.findall(r"--([\w-]+): #([0-9a-f]{6});", block)}


def linear(digits):
    """Light of an sRGB colour (IEC 61966-2-1)."""
    value = np.array([int(digits[i : i + 2], 16) for i in (0, 2, 4)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def luminance(colour):
    return float(np.dot(colour, [0.2126, 0.7152, 0.0722]))


def contrast(one, other):
    """Contrast ratio of WCAG 2.2."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def lab(colour):
    """CIE L*a*b* under D65."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    share = np.array(to_xyz) @ np.clip(colour, 0, 1) / [0.9505, 1.0, 1.089]
    x, y, z = np.where(share > (6 / 29) ** 3, np.cbrt(share), share * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


BLOCKS = [part.partition("}")[0] for part in STYLE.split(":root {")[1:]]
PALETTES = dict(zip(("light", "dark", "print"), map(palette, BLOCKS), strict=True))


@pytest.fixture(params=PALETTES)
def colours(request):
    return PALETTES[request.param]


def test_the_measures_are_the_known_ones():
    assert contrast(linear("000000"), linear("ffffff")) == pytest.approx(21)
    assert contrast(linear("767676"), linear("ffffff")) == pytest.approx(4.54, abs=0.01)
    assert lab(linear("ffffff")) == pytest.approx([100, 0, 0], abs=0.05)
    assert lab(linear("ff0000")) == pytest.approx([53.2, 80.1, 67.2], abs=0.2)
    for matrix in BLINDNESS.values():
        assert np.sum(matrix, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)


def test_every_palette_names_every_colour():
    assert (
        set(PALETTES["light"]) == set(PALETTES["dark"]) == set(PALETTES["print"]) >= {*TEXTS, *SERIES, "band", "mean"}
    )


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("ground", ["paper", "card"])
def test_text_can_be_read(colours, text, ground):
    assert contrast(colours[text], colours[ground]) >= 4.5


@pytest.mark.parametrize("mark", [*SERIES, "mean"])
@pytest.mark.parametrize("ground", ["paper", "band"])
def test_marks_stand_out_from_the_paper_and_from_the_band(colours, mark, ground):
    assert contrast(colours[mark], colours[ground]) >= 3


@pytest.mark.parametrize("kind", BLINDNESS)
def test_the_colour_blind_tell_the_networks_apart(colours, kind):
    """Ten times a just noticeable difference (2.3); shapes and dashes tell them apart besides."""
    seen = [lab(np.array(BLINDNESS[kind]) @ colours[name]) for name in SERIES]
    assert min(np.linalg.norm(one - other) for one, other in combinations(seen, 2)) > 23


def test_every_line_has_a_dash_of_its_own():
    dashes = [re.search(rf"\.series-{name} {{ [^}}]*?dasharray: ([\d. ]+);", STYLE)[1] for name in ("original", *"abc")]
    assert len(set(dashes)) == 4
    assert "dasharray" not in re.search(r"\.series-unlearned {[^}]*}", STYLE)[0]


def test_nothing_moves():
    assert not re.search(r"\b(animation|transition|@keyframes)\b", STYLE)
    assert "scroll-behavior: auto" in STYLE


def test_what_has_the_focus_is_seen_and_the_first_stop_skips_to_the_content():
    assert re.search(r":focus-visible \{ outline: 2px solid", STYLE)
    assert re.search(r"\.skip:focus \{ top: 1rem", STYLE)


def test_paper_is_white_keeps_pictures_whole_and_opens_what_is_folded():
    paper = STYLE.rpartition("@media print {")[2]
    assert "color-scheme: light;" in paper
    assert "details::details-content { display: block; height: auto; content-visibility: visible; }" in paper
    whole = " ".join(re.findall(r"([^{}]*)\{ break-inside: avoid; \}", paper))
    for part in (".panels", ".masks", ".histogram", ".roc", ".pair", ".measure", ".costs", "tr"):
        assert part in whole
