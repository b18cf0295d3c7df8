"""The page's colours, as eyes of every kind see them."""

import itertools
import re

import numpy as np
import pytest

from jaxprop.report.page import asset

# Linear RGB as people without one kind of cone see it; Machado et al., A Physiologically-based Model for Simulation of
# Color Vision Deficiency, 2009, at full severity.
EYES = {
    "all cones": np.eye(3),
    "deuteranopia": np.array([
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881],
    ]),
    "protanopia": np.array([
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998],
    ]),
    "tritanopia": np.array([
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900],
    ]),
}  # fmt: skip
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])


def linear(colour):
    c = np.asarray(colour) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(colour, eye):
    """CIE L*a*b* of an sRGB colour in 0..255."""
    x = TO_XYZ @ np.clip(EYES[eye] @ linear(colour), 0, 1) / WHITE
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def rgb(text):
    return [int(text[i : i + 2], 16) for i in (1, 3, 5)]


def variables(scheme):
    """Colours of one scheme by name."""
    light, dark = asset("page.css").split("@media (prefers-color-scheme: dark)")
    return {
        name: rgb(value) for name, value in re.findall(r"--([\w-]+): (#\w{6});", {"light": light, "dark": dark}[scheme])
    }


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_colours_of_runs_stay_apart(scheme, eye):
    found = variables(scheme)
    colours = [lab(found[f"line-{i}"], eye) for i in range(8)]
    nearest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(colours, 2))
    assert nearest > 12  # 2 can just be told apart side by side


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_stand_out_from_the_page(scheme):
    found = variables(scheme)
    weights = TO_XYZ[1]
    page = weights @ linear(found["page"])
    for name, least in [
        ("text", 7),
        ("muted", 4.5),
        ("act", 4.5),
        ("good", 4.5),
        *((f"line-{i}", 2.4) for i in range(8)),
    ]:
        bright, dim = sorted([page, weights @ linear(found[name])], reverse=True)
        assert (bright + 0.05) / (dim + 0.05) > least, name


@pytest.mark.parametrize("eye", EYES)
def test_the_maps_colours_grow_lighter_evenly(eye):
    block = re.search(r"const STOPS = \[(.*?)\];", asset("dom.js"), re.DOTALL).group(1)
    stops = [[int(x) for x in triple] for triple in re.findall(r"\[(\d+), (\d+), (\d+)\]", block)]
    steps = np.diff([lab(stop, eye)[0] for stop in stops])
    assert len(steps) == 8
    assert 7 < steps.min() < steps.max() < 13
