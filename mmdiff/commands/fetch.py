"""``mmdiff fetch``: free speech to train and to test with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from mmdiff.commands.report import say


def fetch(
    name: Literal["speech-16k", "outside-16k", "digits-16k"], folder: str, *, debs: str | None = None
) -> None:
    """Build a folder of free speech out of Debian packages.

    speech-16k: two hours of studio prompts in five languages, with splits train, valid and test.
    outside-16k: joined words in eight languages from another source, for tests only: they tell what a model
    makes of speakers and recordings outside its training data.
    digits-16k: spoken digits in five languages, 55 recordings to train on and 30 of other voices to test with, a
    second each, and short words that are no digits. ATTRIBUTION.md in each folder says whose
    voices these are and under which licence. A finished folder is left as it is; after an interruption the
    same command goes on.

    Parameters
    ----------
    name : str
        speech-16k, outside-16k or digits-16k.
    folder : str
        Where to put it: a folder that does not exist yet, or is empty.
    debs : str, optional
        Folder that already holds the .deb files. Default: "apt-get download" gets them, 54, 47 or 76 MB.

    Examples
    --------
    mmdiff fetch speech-16k data/speech-16k
    mmdiff fetch outside-16k data/outside-16k
    mmdiff fetch outside-16k data/outside-16k --debs Downloads
    mmdiff fetch digits-16k data/digits-16k
    mmdiff evaluate data/outside-16k --split test
    """
    from mmdiff.audio.datasets.fetch import fetch_debian_speech
    from mmdiff.audio.datasets.fetch_digits import fetch_spoken_digits
    from mmdiff.audio.datasets.fetch_outside import fetch_outside_speech

    builders: dict[str, Callable[[str, str | None], Path]] = {
        "speech-16k": fetch_debian_speech,
        "outside-16k": fetch_outside_speech,
        "digits-16k": fetch_spoken_digits,
    }
    say(str(builders[name](folder, debs)))
