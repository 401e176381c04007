from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import time
from importlib import import_module

import pytest

from mmdiff import __version__
from mmdiff.cli import COMMANDS
from mmdiff.parsing import build_parser, describe, in_words

SURFACE = {
    "vocode": "IN --out --model --steps --sampler --schedule --seed --temperature --mel-preset --device --dtype "
    "--plot --json",
    "sound": "LABEL --model --out --num --seed --seconds --steps --sampler --schedule --guidance --temperature "
    "--device --dtype --json",
    "edit": "RECORDING --out --fill --continue-by --extend-to --declip --model --label --method --steps --sampler "
    "--seed --device --dtype --json",
    "clip": "PROMPT --out --model --prompts --num --seed --frames --size --fps --steps --sampler --schedule "
    "--guidance --continue-from --keyframes --places --inpaint --mask --outpaint --margins --upscale --factor --loop "
    "--method --plot --device --dtype --json",
    "mel": "IN --out --preset --format",
    "recipes": "",
    "cp": "NAME DEST --overwrite",
    "run": "NAME",
    "fetch": "NAME FOLDER --debs",
    "evaluate": "REFERENCE ESTIMATE --model --split --steps --mel-presets --seeds --measures --limit "
    "--no-baselines --lookaheads --block --captions --num --seed --sampler --guidance --features --edits "
    "--likelihood --device --dtype --out --json",
    "search": "MODEL --data --split --steps --out --measure --sampler --limit --seconds --evaluations --seed --plot "
    "--device --dtype --json",
    "bench": "WHAT --audio --limit --seconds --only --env --plot --results --size --frames --dim --batch --repeats "
    "--threads --dtype --out --json",
    "convert": "FILE --out --weights --size --frames --fps --groups --dynamic-threshold --mel --sample-rate "
    "--factors --dilations --betas --energy-min --energy-max --to --half --json",
    "export": "MODEL --out --format --part --steps --json",
    "info": "--json",
}
"""All there is to know by heart. Think twice before this grows."""


def _function(name):
    module, _, function = COMMANDS[name].partition(":")
    return getattr(import_module(module), function)


def _parser(name):
    return build_parser(_function(name), f"mmdiff {name}")


def test_surface_is_what_was_decided():
    found = {
        name: " ".join(
            action.option_strings[-1] if action.option_strings else action.metavar
            for action in _parser(name)._actions
            if action.dest != "help" and not action.dest.startswith("print_")
        )
        for name in COMMANDS
    }
    assert found == SURFACE


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_every_option_and_gives_examples_that_parse(name):
    parser = _parser(name)
    text = parser.format_help()
    assert describe(_function(name)).summary in text
    for action in parser._actions:
        assert action.help, f"{name}: {action.dest} has no help"
    examples = [line.strip() for line in parser.epilog.splitlines()[1:]]
    assert examples
    for example in examples:
        words = shlex.split(example)
        assert words[0] == "mmdiff"
        example_parser = _parser(words[1])
        example_parser.parse_args(words[2:3] if words[1] == "run" else words[2:])


def test_overview_lists_the_commands_and_does_not_load_torch(mmdiff_process):
    outcome = mmdiff_process("--help")
    assert outcome.status == 0
    for name in COMMANDS:
        assert f"\n  {name} " in outcome.out
    code = (
        "import sys; from mmdiff.cli import main; status = main(sys.argv[1:]); "
        "assert not {'torch', 'librosa', 'matplotlib'} & set(sys.modules); sys.exit(status)"
    )
    for arguments in (["--help"], ["vocode", "--help"], ["clip", "--help"], ["recipes"], ["run", "--help"]):
        subprocess.run([sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.DEVNULL)


def test_version(mmdiff_command):
    assert mmdiff_command("--version").out == f"{__version__}\n"


@pytest.mark.parametrize(("argv", "word"), [([], "usage"), (["sing"], "sing"), (["vocode"], "inputs")])
def test_no_sensible_command_is_a_usage_error(mmdiff_command, argv, word):
    outcome = mmdiff_command(*argv)
    assert outcome.status == 2
    assert word in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["edit", "x.wav", "--steps", "many"], "--steps 'many' must be a whole number"),
        (["edit", "x.wav", "--continue-by", "long"], "--continue-by 'long' must be a number"),
        (
            ["edit", "x.wav", "--method", "force"],
            "--method 'force' must be one of reconstruction, replacement",
        ),
        (["sound", "seven-en", "--seed", "1.5"], "--seed '1.5' must be a whole number"),
        (["search", "model", "--steps", "2", "x"], "--steps 'x' must be whole numbers"),
        (["bench", "nothing"], "WHAT 'nothing' must be one of video, vocoder"),
        (["run", "clips", "--widths", "3"], "--widths '3' must be whole numbers in brackets, such as [1,2]"),
    ],
)
def test_options_of_the_wrong_type_are_told_in_words(mmdiff_command, argv, message):
    outcome = mmdiff_command(*argv)
    assert outcome.status == 2
    assert outcome.err.endswith(f"error: {message}\n")


@pytest.mark.parametrize("name", COMMANDS)
def test_there_are_words_for_every_option(name):
    words = {option: in_words(kind) for option, kind in _parser(name).kinds.items() if option != "return"}
    assert all(words.values()), words


def test_reader_that_stops_early_is_no_error():
    command = f"{sys.executable} -m mmdiff recipes | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_interruption_ends_quietly_with_status_130(tmp_path):
    script = tmp_path / "waiting.py"
    script.write_text(
        '"""Wait."""\nimport time\n\n'
        'def main():\n    """Wait."""\n    print("on", flush=True)\n    time.sleep(60)\n'
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "mmdiff", "run", str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "mmdiff run: error: interrupted\n"
