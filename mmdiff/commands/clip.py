"""``mmdiff clip``: clips from sentences, and clips continued, filled, widened or sharpened."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

from mmdiff.commands.clip_files import Outputs, Result, plan_outputs
from mmdiff.commands.report import remark, say, say_json
from mmdiff.errors import InputError

if TYPE_CHECKING:
    from mmdiff.commands.clip_inputs import Source
    from mmdiff.video.generator import ClipGenerator
    from mmdiff.video.request import Request


def clip(
    prompt: str | None = None,
    *,
    out: str | None = None,
    model: str = "clips-32",
    prompts: str | None = None,
    num: int = 1,
    seed: int = 0,
    frames: int | None = None,
    size: str | None = None,
    fps: float | None = None,
    steps: int | None = None,
    sampler: str | None = None,
    schedule: str | None = None,
    guidance: float | None = None,
    continue_from: str | None = None,
    keyframes: list[str] = [],  # noqa: B006, read only
    places: list[int] = [],  # noqa: B006
    inpaint: str | None = None,
    mask: str | None = None,
    outpaint: str | None = None,
    margins: list[int] = [],  # noqa: B006
    upscale: str | None = None,
    factor: list[int] = [],  # noqa: B006
    loop: bool = False,
    method: Literal["trained", "reconstruction", "replacement"] | None = None,
    plot: str | None = None,
    device: str | None = None,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    json: bool = False,
) -> None:
    """Make clips from sentences, or go on with, fill, widen or sharpen a given video.

    A video is read at the frame rate and, unless its own suits the model, at the size of the clips the model was
    trained on. What is given comes back unchanged but for the compression of the file written; .npz has none.

    Parameters
    ----------
    prompt : str, optional
        What the clip shows; without it the model decides.
    out : str, optional
        Video (.mp4, .webm, .mkv, .mov, .gif, .npz), contact sheet (.png), numbered pictures
        (frames/%04d.png), or a folder for several clips. Default: an .mp4 named after the prompt, or beside the
        given video. Older results are replaced, inputs never.
    model : str
        Shipped model (see "mmdiff info"), model folder, or Hugging Face hub id owner/name.
    prompts : str, optional
        Text file with one prompt a line, instead of a prompt.
    num : int
        Clips for each prompt.
    seed : int
        Of the first clip's noise; the next clip has the next number. A clip depends on its own seed alone.
    frames : int, optional
        Length of the result, or, with --continue-from, how many frames to add. Any number: long videos are made
        in blocks. Default: as many as the model's training clips have.
    size : str, optional
        Height and width in pixels, such as 32 or 32x48: of the result, or to read a given video at.
    fps : float, optional
        Frames a second, at which videos are read and written; default: the model's.
    steps : int, optional
        Steps of the sampler; more is slower and, up to a point, better. Default: the model's.
    sampler : str, optional
        Sampler by name; default: the model's.
    schedule : str, optional
        Where the sampler stops: a file that "mmdiff search" wrote, or uniform, quadratic, log_snr, karras or
        flow_shift. Default: the model's.
    guidance : float, optional
        How closely to follow the prompt: 1 is as trained, 0 not at all, more doubles the time. Default: the
        model's, and 1 where whole frames are given.
    continue_from : str, optional
        Video to go on with.
    keyframes : list of str, optional
        Pictures that the video passes through, evenly spaced from its first frame to its last.
    places : list of int, optional
        Frame numbers of the pictures, counted from 0, instead.
    inpaint : str, optional
        Video of which part is to be painted anew: the part where --mask is white.
    mask : str, optional
        Picture, or video as long as that of --inpaint: white where to paint.
    outpaint : str, optional
        Video to be seen more of: how much more say --margins.
    margins : list of int, optional
        Pixels to add on the left, on the right, above and below, and frames before and after, in this order;
        one number is for all four sides.
    upscale : str, optional
        Video to be made larger.
    factor : list of int, optional
        For --upscale: of height and width, and a second number, if wanted, of the frame rate. Default: 2.
    loop : bool
        Let the last frame lead back to the first.
    method : str, optional
        How to agree with a given video: trained (by what the model learned for it), reconstruction (guidance),
        or replacement (quicker but less coherent). Default: the first that the model can.
    plot : str, optional
        Write a contact sheet (.png) of all clips, too.
    device : str, optional
        cpu, cuda, cuda:1, ...; default: a GPU if there is one.
    dtype : str
        Precision of the network's matrix products.
    json : bool
        Print one JSON object for each clip.

    Examples
    --------
    mmdiff clip "a blue seven moving left" -o seven.mp4
    mmdiff clip "a red two moving up" --num 8 --seed 100 -o sheet.png
    mmdiff clip --prompts captions.txt -o clips/ --frames 64 --plot all.png
    mmdiff clip "a blue seven moving left" --continue-from seven.mp4 --frames 32 -o longer.mp4
    mmdiff clip --keyframes first.png last.png --frames 20 -o between.gif
    mmdiff clip --inpaint seven.mp4 --mask hole.png
    mmdiff clip --outpaint seven.mp4 --margins 8 8 0 0
    mmdiff clip --upscale small.gif --factor 2 2
    """
    from mmdiff.commands.clip_inputs import read_source
    from mmdiff.commands.clip_options import read_prompts
    from mmdiff.commands.pipelines import load_pipeline
    from mmdiff.video.generator import ClipGenerator

    texts = read_prompts(prompt, prompts)
    tasks = {"continue_from": continue_from, "keyframes": keyframes, "inpaint": inpaint, "outpaint": outpaint,
             "upscale": upscale}  # fmt: skip
    more = {"mask": mask, "places": places, "margins": margins, "factor": factor}
    gen = load_pipeline(ClipGenerator, model, device, dtype)
    source = read_source(gen, tasks, more, frames, size, fps)
    settings: dict[str, Any] = {
        "steps": steps, "sampler": sampler, "grid": schedule, "guidance": guidance, "method": method
    }  # fmt: skip
    request = gen.request(texts, edit=source.edit, num=num, seed=seed, loop=loop, **settings)
    outputs = plan_outputs(out, request.prompts, source.files, source.tag, plot, prompts, request.edit.frames)
    _refuse_idle(gen, request, source, outputs, {"guidance": guidance, "method": method, "fps": fps})
    for note in source.notes:
        remark(note)
    _make(gen, request, source, outputs, json)


def _refuse_idle(
    gen: ClipGenerator, request: Request, source: Source, outputs: Outputs, options: dict[str, Any]
) -> None:
    """Refuse options that would make no difference here."""
    blocks = gen.plan(request).made
    why = {
        "guidance": "" if request.guided else "come with a prompt, which it follows more closely",
        "method": ""
        if source.tag or blocks > 1
        else "come with something to agree with: a video, key frames, --loop, or --frames beyond one block",
        "fps": "" if source.reads or outputs.films else "be left out: pictures have no rate",
    }
    for name, rule in why.items():
        if rule and options[name] is not None:
            raise InputError(f"--{name} {options[name]} must {rule}")


def _make(gen: ClipGenerator, request: Request, source: Source, outputs: Outputs, json: bool) -> None:
    area = request.edit.size[0] * request.edit.size[1] / (gen.model.size[0] * gen.model.size[1])
    batch = max(1, min(8, int(8 / area)))
    titles = [
        f"{text or 'no prompt'}, seed {seed}"
        for text, seed in zip(request.prompts, request.seeds, strict=True)
    ]
    with outputs.sheet(titles, request.edit.frames) as sheet:
        for n in range(0, len(request), batch):
            part = request.part(n, n + batch)
            with outputs.files(n, len(part), source.fps, request.edit.size, source.sound) as files:
                start, elapsed = time.perf_counter(), 0.0
                for block in gen.stream(part, progress=True):
                    pixels = block.cpu()  # waits for the device: its time counts
                    elapsed += time.perf_counter() - start
                    files.write(pixels)
                    sheet.add(pixels, n)
                    start = time.perf_counter()
            for i, path in enumerate(files.paths):
                result = Result(path, part.prompts[i], part.seeds[i], elapsed / len(part), gen.evaluations)
                _tell(result, request, source, outputs, json)
    _tell_of_sampler(gen, request)
    for path in outputs.pictures:
        if not json:
            say(f"{path}  contact sheet")


def _tell_of_sampler(gen: ClipGenerator, request: Request) -> None:
    from mmdiff.diffusion.samplers import SAMPLERS

    name, steps = str(request.sampling.sampler), request.sampling.steps or 1
    if not SAMPLERS[name].keeps_grid:
        remark(
            f"sampler {name} chooses its own steps: {_counted(gen.evaluations, 'network evaluation')} a clip"
        )
    elif (several := SAMPLERS[name].evaluations_per_step) > 1:
        remark(
            f"sampler {name} takes up to {several} network evaluations a step: "
            f"{_counted(steps, 'step')}, {_counted(gen.evaluations, 'network evaluation')} a clip"
        )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _tell(result: Result, request: Request, source: Source, outputs: Outputs, json: bool) -> None:
    frames, (height, width) = request.edit.frames, request.edit.size
    if not json:
        if result.path is not None:
            say(
                f"{result.path}  {_counted(frames, 'frame')} of {height}x{width} at {source.fps:g} a second, in "
                f"{result.elapsed:.2f} s ({_counted(result.evaluations, 'network evaluation')}, seed {result.seed})"
            )
        return
    record: dict[str, Any] = {
        "output": None if result.path is None else str(result.path),
        "sheets": [str(path) for path in outputs.pictures],
        "inputs": [str(path) for path in source.files],
        "prompt": result.prompt,
        "seed": result.seed,
        "frames": frames,
        "size": [height, width],
        "fps": source.fps,
        "steps": request.sampling.steps,
        "evaluations": result.evaluations,
        "elapsed": round(result.elapsed, 6),
        "notes": [*source.notes, *request.notes],
    }
    say_json(record)
