"""Methods that learn the same task for the same time, judged on the way and timed in turn; see recipes/compare."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmdiff.bench.small_results import QUALITIES, RowFile, across_seeds, by_seed, draw_tradeoffs, in_turns
from mmdiff.bench.small_tasks import MEASURES, SmallTask, States
from mmdiff.errors import InputError
from mmdiff.files import atomic_file
from mmdiff.media.estimates import Estimate, mean_estimate
from mmdiff.media.tables import Measure, Score
from mmdiff.progress import track
from mmdiff.training import Part, Trainer, load_weights
from mmdiff.training.budget import Stopwatch, train_for

BATCH = 20  # samples made at a time
REAL = "real, others"
COLUMNS = {
    "minutes": Measure("training", "minutes", decimals=2),
    "updates": Measure("updates"),
    "evaluations": Measure("evaluations"),
    "seconds": Measure("a sample", "s", False, note=f"time of the processor, {BATCH} made at a time"),
    **MEASURES,
    "bits": Measure(
        "bits/dim", "", False, 3, note="upper bounds, of pixels and grey levels as whole numbers"
    ),
}
"""What rows of a comparison say."""


class Draw(NamedTuple):
    """A way to make samples."""

    evaluations: int
    """Of the network, for a sample."""
    make: Callable[[int, torch.Generator], Tensor]
    """``make(count, generator) -> states`` (count, 1, *space)."""


@dataclass
class Method:
    """What a trainer optimises, and what is done with it.

    Attributes
    ----------
    task : nn.Module
        As a trainer wants it, of batches of states.
    draws : dict from str to Draw
        The first is judged in the course of training, all of them at its end.
    bits : callable, optional
        ``bits(states, generator) -> (B,)``: bits per dimension of whole-numbered data, at most.
    rate, betas, parts
        Of the optimizer.
    """

    task: nn.Module
    draws: dict[str, Draw]
    bits: Callable[[Tensor, torch.Generator], Tensor] | None = None
    rate: float = 2e-3
    betas: tuple[float, float] = (0.9, 0.99)
    parts: dict[str, Part] = field(default_factory=dict)


@dataclass(frozen=True)
class Rules:
    """What holds for all methods.

    Attributes
    ----------
    minutes : float > 0
        Of the processor, that each is trained for.
    shares : sequence of float
        Parts of the minutes after which it is judged, rising to 1.
    samples : int > 0
        Made each time.
    measured_bits : int >= 0
        Held-out items whose likelihood is measured.
    repeats : int > 0
        Of the timing.
    batch_size, checkpoint_every : int > 0
        Of the trainer.
    seed : int
        Of weights, order of the data and noise.

    Raises
    ------
    InputError
        A number breaks its rule.
    """

    minutes: float = 5.0
    shares: Sequence[float] = (0.25, 0.5, 1.0)
    samples: int = 400
    measured_bits: int = 32
    repeats: int = 5
    batch_size: int = 16
    checkpoint_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        rising = list(self.shares) == sorted(set(self.shares)) and self.shares and self.shares[0] > 0
        if not rising or self.shares[-1] != 1:
            raise InputError(f"shares={tuple(self.shares)} must rise to 1; try 0.25,0.5,1")
        if min(self.minutes, self.samples, self.repeats, self.batch_size) <= 0 or self.measured_bits < 0:
            raise InputError(
                f"minutes={self.minutes}, samples={self.samples}, repeats={self.repeats} and "
                f"batch_size={self.batch_size} must be positive, measured_bits={self.measured_bits} not negative"
            )


def contest(
    task: SmallTask,
    makers: Mapping[str, Callable[[SmallTask], Method]],
    rules: Rules,
    run_dir: Path,
    rows: RowFile,
) -> None:
    """Train methods in turn, share by share, and add a score of each draw to the rows; what is there stays.

    Parameters
    ----------
    task : SmallTask
    makers : mapping from str to callable
        ``maker(task) -> Method``, by name.
    rules : Rules
    run_dir : Path
        Gets the folders ``seed-SEED/TASK/METHOD`` of the trainings, and ``seed-SEED/TASK/METHOD-DRAW`` of samples.
    rows : RowFile
        Of any number of seeds.
    """
    if not rows.find(task=task.name, method=REAL):
        rows.add(Score(REAL, task.measure(task.real), {"task": task.name, "method": REAL, "share": 1.0}))
    entrants = {name: _Entrant(name, task, maker, rules, run_dir) for name, maker in makers.items()}
    for share in rules.shares:
        for entrant in entrants.values():
            draws = list(entrant.method.draws)
            wanted = draws if share == 1 else draws[:1]
            missing = [d for d in wanted if not rows.find(**entrant.about(d), share=share)]
            if missing:
                entrant.train(share)
            for draw in missing:
                rows.add(entrant.judge(draw, share))
    for entrant in entrants.values():
        entrant.load()
    _take_times(list(entrants.values()), rules, rows)


class _Entrant:
    """A method on its way."""

    def __init__(
        self, name: str, task: SmallTask, maker: Callable[[SmallTask], Method], rules: Rules, run_dir: Path
    ) -> None:
        torch.manual_seed(rules.seed)  # of the weights
        self.name, self.task, self.rules = name, task, rules
        self.method = maker(task)
        self.watch = Stopwatch(self.method.task)
        self.folder = run_dir / f"seed-{rules.seed}" / task.name / name
        self.updates = 0
        self._bits_at: dict[int, Estimate | None] = {}

    def about(self, draw: str) -> dict[str, object]:
        """What tells a row of this method from others."""
        return {"task": self.task.name, "method": self.name, "draw": draw, "seed": self.rules.seed}

    def train(self, share: float) -> None:
        """Train up to a share of the minutes, and take the average of the weights."""
        seconds = 60 * self.rules.minutes * share
        print(f"{self.task.name}: training {self.name} up to {seconds:.0f} s")
        self.watch.train()
        train_for(seconds, self.watch, self.folder, self._trainer)
        self.load()

    def load(self) -> None:
        """Take the average of the weights in the newest checkpoint."""
        self.updates = load_weights(self.watch, self.folder)
        self.watch.eval()

    def judge(self, name: str, share: float) -> Score:
        """Make samples by a draw, and have them measured."""
        draw, pixels = self.method.draws[name], []
        batches = range(0, self.rules.samples, BATCH)
        for first in track(batches, f"{self.task.name}: {self.name}, {name}"):
            generator = torch.Generator().manual_seed(self.rules.seed + first)
            states = draw.make(min(BATCH, self.rules.samples - first), generator)
            pixels.append(self.task.to_pixels(states))
        found = self.task.measure(torch.cat(pixels))
        if share == 1:
            self.task.save(pixels[0], self.folder.with_name(f"{self.name}-{name.replace(' ', '-')}"))
        if self.updates not in self._bits_at:
            self._bits_at[self.updates] = self._bits()
        if bits := self._bits_at[self.updates]:
            found["bits"] = bits
        about = {"share": share, "updates": self.updates, "evaluations": draw.evaluations}
        return Score(
            f"{self.name}, {name}", {"minutes": Estimate(self.watch.seconds / 60), **found},
            {**self.about(name), **about},
        )  # fmt: skip

    def _bits(self) -> Estimate | None:
        """Of held-out items; all draws have the same."""
        if self.method.bits is None or not self.rules.measured_bits:
            return None
        generator = torch.Generator().manual_seed(self.rules.seed)
        states = self.task.to_state(self.task.real[: self.rules.measured_bits])
        parts = track(states.split(BATCH), f"{self.task.name}: {self.name}, bits")
        return mean_estimate(torch.cat([self.method.bits(part, generator).detach() for part in parts]))

    def _trainer(self, steps: int) -> Trainer:
        return Trainer(
            self.folder,
            self.watch,
            States(self.task, self.rules.seed),
            steps=steps,
            batch_size=self.rules.batch_size,
            learning_rate=self.method.rate,
            betas=self.method.betas,
            lr_schedule="constant",
            warmup_steps=50,
            parts={f"task.{name}": part for name, part in self.method.parts.items()},
            ema=("power:0.1",),
            checkpoint_every=self.rules.checkpoint_every,
            log_every=0,
            seed=self.rules.seed,
            device="cpu",
            tensorboard=False,
        )


def _take_times(entrants: Sequence[_Entrant], rules: Rules, rows: RowFile) -> None:
    """Measure the time of a sample of every row of fully trained methods."""
    count = min(BATCH, rules.samples)
    calls = {
        (entrant, name): (lambda draw=draw: draw.make(count, torch.Generator().manual_seed(0)))
        for entrant in entrants
        for name, draw in entrant.method.draws.items()
    }
    taken = in_turns({f"{e.name}, {name}": call for (e, name), call in calls.items()}, rules.repeats)
    for entrant, name in calls:
        value, low, high, times, _ = taken[f"{entrant.name}, {name}"]
        for score in rows.find(**entrant.about(name), share=1.0):
            score.measures["seconds"] = Estimate(value / count, low / count, high / count, times)
    rows.save()


def report(rows: RowFile, command: str) -> str:
    """Write the tables and the picture beside the rows, and return the text of the tables.

    Parameters
    ----------
    rows : RowFile
    command : str
        By which they were found.
    """
    ended = [score for score in rows.scores if score.about["share"] == 1]
    final = across_seeds(ended)
    timed = [score for score in final if "seconds" in score.measures]
    first: dict[tuple[str, str], str] = {}
    for score in timed:
        first.setdefault((score.about["task"], score.about["method"]), score.about["draw"])
    course = [
        score
        for (task, method), draw in first.items()
        for score in across_seeds(rows.find(task=task, method=method, draw=draw))
    ]
    parts = [f"`{command}`", "After all minutes:", rows.markdown(final)]
    parts += ["In their course:", rows.markdown(course)]
    if any(score.about["seeds"] > 1 for score in final):
        shown = [name for name in QUALITIES if any(name in score.measures for score in ended)]
        parts.append("These are means over seeds.")
        for name in shown:
            parts += [f"By seed, {COLUMNS[name].title}:", by_seed(ended, name, COLUMNS[name])]
    text = "\n\n".join(parts)
    with atomic_file(rows.path.with_suffix(".md")) as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")
    draw_tradeoffs(rows.path.with_suffix(".png"), timed, course, COLUMNS)
    return text


def shared_settings(rules: Rules) -> dict[str, object]:
    """What all rows of one file have in common: seeds may differ."""
    return {name: value for name, value in asdict(rules).items() if name not in ("checkpoint_every", "seed")}
