"""Videos longer than a network was trained for: blocks that begin with the last frames of the one before.

Nothing is made twice: the frames that two blocks share are known to the later one. A key frame that is too far
away for one block is approached in blocks of equal length; what lies before the first known frame is made
backwards from it; and a loop ends in a block that knows the frames it began with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from mmdiff.video.edits import Edit
from mmdiff.video.known import Known

Make = Callable[[int, int, Known], Tensor]
"""``make(begin, end, known) -> (B, C, end - begin, H, W)``: those frames of the video, known ones kept."""


class Span(NamedTuple):
    """One block: its frames ``begin`` to ``end``, of which ``first`` to ``last`` are new.

    ``known`` says that all of them are given, so that nothing need be made.
    """

    begin: int
    end: int
    first: int
    last: int
    known: bool


class Plan(NamedTuple):
    """Blocks in the order in which they are made; ``backward`` ones lead from the first known frame to 0."""

    forward: tuple[Span, ...]
    backward: tuple[Span, ...]

    @property
    def made(self) -> int:
        """How many blocks have to be made."""
        return sum(not span.known for span in (*self.forward, *self.backward))


class Lengths(NamedTuple):
    """How a video is cut.

    Attributes
    ----------
    block : int
        Frames of a block.
    longest : int >= block
        What is no longer than this is made at once.
    overlap : int < block
        Frames that a block knows of the one before.
    unit : int
        Blocks begin and end at multiples of it.
    """

    block: int
    longest: int
    overlap: int
    unit: int = 1


def choose_lengths(frames: int, overlap: int, unit: int) -> Lengths:
    """Lengths for a model of clips of so many ``frames``, where a given small frame stands for ``unit``."""
    block = max(frames, 2 * unit, overlap + 1)
    longest = block + block // 4
    if unit == 1:
        return Lengths(block, longest, overlap)
    block, longest = block // unit * unit, longest // unit * unit
    return Lengths(block, longest, min(-(-overlap // unit) * unit, block - unit), unit)


def plan(edit: Edit, lengths: Lengths) -> Plan:
    """Cut a video into blocks."""
    known = edit.whole()
    ahead = edit.first if edit.frames > lengths.longest and edit.first > lengths.block // 2 else 0
    spans: list[Span] = []
    done = ahead
    while done < edit.frames:
        if known[done]:
            stop = min(_run(known, done, True), done + lengths.block)
            spans.append(Span(done, stop, done, stop, True))
        else:
            spans.append(_next(edit, known, ahead, done, lengths))
        done = spans[-1].last
    return Plan(tuple(spans), tuple(_backward(ahead, spans[0].last - ahead, lengths)))


def _next(edit: Edit, known: list[bool], ahead: int, done: int, lengths: Lengths) -> Span:
    """Choose the block that makes frame ``done``."""
    begin = max(ahead, done - lengths.overlap)
    tail = min(lengths.overlap, done) if edit.loop else 0  # frames after the last, known to be the first ones
    total = edit.frames + tail
    closed = edit.loop and done == 0 and edit.frames > 1  # its end knows its beginning, which must come first
    if total - begin <= lengths.longest and not closed:
        return Span(max(ahead, min(begin, total - lengths.block)), total, done, edit.frames, False)
    end = min(begin + lengths.block, edit.frames - closed)
    if end < edit.frames and known[end] and end - begin < lengths.longest:
        end += 1  # what leads to a known frame shall see it
    start = end
    while start > done and not known[start - 1]:
        start -= 1
    if start > done:
        return Span(begin, start, done, start, False)
    gap = _run(known, done, False) - done
    room = lengths.block - (done - begin)
    open_end = done + gap == edit.frames and not edit.loop
    goal = tail if edit.loop else int(not open_end)  # frames of what it leads to
    blocks = 1 + math.ceil(max(0, gap + goal - room) / (lengths.block - lengths.overlap))
    # towards something known in steps of equal length, else at once as far as possible
    take = room if open_end and begin == done else math.ceil(gap / max(1 + closed, blocks))
    last = min(edit.frames, begin + lengths.block, lengths.unit * math.ceil((done + take) / lengths.unit))
    if last - lengths.block < begin:  # what is left of the block looks further back
        begin = max(ahead, last - lengths.block)
    return Span(begin, last, done, last, False)


def _backward(cursor: int, given: int, lengths: Lengths) -> Iterator[Span]:
    while cursor > 0:
        context = min(lengths.overlap, given)
        take = math.ceil(cursor / math.ceil(cursor / (lengths.block - context)))
        yield Span(cursor - take, cursor + context, cursor - take, cursor, False)
        cursor, given = cursor - take, given + take


def _run(known: list[bool], start: int, value: bool) -> int:
    """Return the end of the run of ``value`` that begins at ``start``."""
    return next((n for n in range(start, len(known)) if known[n] != value), len(known))


def extend(
    edit: Edit, steps: Plan, make: Make, *, clips: int, channels: int, device: torch.device
) -> Iterator[Tensor]:
    """Make a video block by block; only the latest blocks are in memory.

    Parameters
    ----------
    edit : Edit
    steps : Plan
        Of :func:`plan`.
    make : callable
    clips : int
        B, how many videos are made at once.
    channels : int
    device : torch.device

    Yields
    ------
    Tensor, shape (B, C, f, H, W)
        New frames, each once and in order. Those made backwards come all together in memory before the first.
    """
    pieces = _forward(edit, steps.forward, make, clips, channels, device)
    if steps.backward:
        opening = next(pieces)
        yield from _before(edit, steps.backward, make, opening)
        yield opening
    yield from pieces


def _forward(
    edit: Edit, spans: tuple[Span, ...], make: Make, clips: int, channels: int, device: torch.device
) -> Iterator[Tensor]:
    context = max(span.first - span.begin for span in spans)
    tail = max(span.end for span in spans) - edit.frames
    held = opening = torch.zeros(clips, channels, 0, *edit.size, device=device)
    for span in spans:
        known = edit.part(span.begin, span.end, channels, device)
        if span.known:
            piece = known.video.expand(clips, -1, -1, -1, -1)
        else:
            if span.first > span.begin:
                known = known.with_frames(held[:, :, held.shape[2] - (span.first - span.begin) :], 0)
            if span.end > edit.frames:
                known = known.with_frames(opening[:, :, : span.end - edit.frames], edit.frames - span.begin)
            piece = make(span.begin, span.end, known)[:, :, span.first - span.begin : span.last - span.begin]
        held = torch.cat((held, piece), 2)
        held = held[:, :, max(0, held.shape[2] - context) :]
        opening = torch.cat((opening, piece), 2)[:, :, : max(0, tail)]
        yield piece


def _before(edit: Edit, spans: tuple[Span, ...], make: Make, opening: Tensor) -> Iterator[Tensor]:
    pieces, held = [], opening
    for span in spans:
        known = edit.part(span.begin, span.end, opening.shape[1], opening.device)
        known = known.with_frames(held[:, :, : span.end - span.last], span.last - span.begin)
        piece = make(span.begin, span.end, known)[:, :, : span.last - span.begin]
        held = torch.cat((piece, held), 2)[:, :, : opening.shape[2] + piece.shape[2]]
        pieces.append(piece)
    yield from reversed(pieces)
