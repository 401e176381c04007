"""Which captions stay true in a mirror."""

from __future__ import annotations

import re

from mmdiff.errors import InputError

_WORDS = """
left lefts leftmost leftward leftwards lefty lefthand lefthanded lefthander southpaw
right rights rightmost rightward rightwards righthand righthanded righthander
clockwise anticlockwise counterclockwise clock
east eastern eastward eastwards eastbound west western westward westwards westbound
northeast northwest southeast southwest
port starboard
mirror mirrored mirroring reversed backward backwards
letter letters text texts word words writing writes written handwriting handwritten
caption captions subtitle subtitles sign signs logo logos
digit digits number numbers numeral numerals
"""
DIRECTION_WORDS = frozenset(_WORDS.split())
"""English words after which a clip is not mirrored: directions, turning, hands, compass points, and writing,
which a mirror makes unreadable. Compounds are taken apart: "left-handed" holds "left", "upright" does not
hold "right". Captions in other languages need ``flip=False``."""

FLIPS = ("auto", True, False)


def check_flip(flip: str | bool) -> None:
    """Raise InputError unless ``flip`` is "auto", True or False."""
    if flip not in FLIPS:
        raise InputError(f"flip={flip!r} must be 'auto', true or false")


def may_flip(caption: str | None) -> bool:
    """Say whether a clip may be mirrored without making its caption false.

    Examples
    --------
    >>> may_flip("a dog jumps upright"), may_flip("a dog runs to the Left.")
    (True, False)
    """
    return caption is None or DIRECTION_WORDS.isdisjoint(re.findall("[a-z]+", caption.lower()))
