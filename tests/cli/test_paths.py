"""Paths that are alike but for their numbers."""

import pytest

from jaxprop.cli.paths import in_few

CASES = {
    "nothing": ([], []),
    "no number": (["a", "b/c"], ["a", "b/c"]),
    "one number stays as it is": (["blocks/07/a", "blocks/x/a"], ["blocks/07/a", "blocks/x/a"]),
    "gaps are told": ([f"b/{i}/w" for i in (0, 1, 2, 4, 7, 8)], ["b/0-2,4,7-8/w"]),
    "in any order": (["b/2/w", "b/0/w", "b/1/w"], ["b/0-2/w"]),
    "two numbers": ([f"s/{i}/b/{j}/w" for i in range(2) for j in range(3)], ["s/0-1/b/0-2/w"]),
    "uneven stages stay apart": (["s/0/b/0/w", "s/0/b/1/w", "s/1/b/0/w"], ["s/0-1/b/0/w", "s/0/b/1/w"]),
    "the place of the first counts": (["b/0/w", "head", "b/1/w"], ["b/0-1/w", "head"]),
    "other lengths": (["b/0", "b/1", "b/0/w", "0", "1"], ["b/0-1", "b/0/w", "0-1"]),
}


@pytest.mark.parametrize("case", CASES)
def test_paths_in_few_words(case):
    paths, told = CASES[case]
    assert in_few(paths) == told
