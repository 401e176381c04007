"""Sound by critically damped Langevin diffusion: training, resuming, folders, seeds, streams, edits and recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import mmdiff
from mmdiff.audio import io
from mmdiff.audio.editing.edits import gap_filling
from mmdiff.audio.editing.sound import edit_sound
from mmdiff.audio.energy_prior import EnergyPrior
from mmdiff.audio.evaluation.likelihood import evaluate_sound_likelihood
from mmdiff.audio.framed_sound import FramedSoundTask
from mmdiff.audio.generator import SoundGenerator
from mmdiff.audio.graphs import make_graph
from mmdiff.audio.mel import MelSpec
from mmdiff.audio.mel_sound import MelSoundModel
from mmdiff.audio.networks.diffwave import DiffWave
from mmdiff.audio.networks.mel import LabelledMelNet
from mmdiff.audio.networks.wavegrad import WaveGrad
from mmdiff.audio.sound_model import SoundModel
from mmdiff.audio.spectral_prior import SpectralPrior
from mmdiff.audio.tasks import WaveformTask
from mmdiff.audio.vocoder import Vocoder
from mmdiff.audio.waveform_vocoder import WaveformVocoder
from mmdiff.diffusion.langevin import CriticallyDamped
from mmdiff.diffusion.langevin_denoiser import LangevinDenoiser
from mmdiff.diffusion.schedules import LinearFlow
from mmdiff.errors import InputError
from mmdiff.hub import save_model
from mmdiff.recipes import run_recipe
from mmdiff.training import Trainer, load_weights
from mmdiff.training.checkpoint import read_checkpoint

MEL = MelSpec(n_mels=20, hop_length=64, n_fft=256, win_length=256)
SAMPLERS = ("sscs", "langevin_em", "langevin_ode")


def sound_model(**options) -> SoundModel:
    torch.manual_seed(0)
    network = DiffWave(0, 8, 3, 3, classes=2, step_width=32, inputs=2, noise_input="log_snr")
    settings = {"labels": ("low", "high"), "steps": 4, "prediction": "mixed", "sigma_data": 0.5, **options}
    return SoundModel(network, CriticallyDamped(), 1000, 0.064, **settings)


def vocoder(kind: str = "diffwave", **options) -> WaveformVocoder:
    torch.manual_seed(0)
    if kind == "diffwave":
        network = DiffWave(20, 8, 4, 4, (8, 8), step_width=32, inputs=2, noise_input="log_snr")
        torch.nn.init.normal_(network.out.weight, std=0.1)
        return WaveformVocoder(
            MEL, network, CriticallyDamped(), 3, prediction="mixed", sigma_data=0.1, **options
        )
    network = WaveGrad(20, (4, 4, 4), (16, 16, 8), (8, 8), ((1, 2, 1, 2),) * 3, 16, 8)
    network.out.weight.data *= 1e-3  # what it makes shall not be clipped
    return WaveformVocoder(MEL, network, CriticallyDamped(), 3, prediction="edm", sigma_data=0.1, **options)


class Tones:
    """Item n: one of two tones with a phase of its own."""

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = torch.Generator().manual_seed(index)
        label = torch.randint(2, (), generator=rng)
        time = torch.arange(64) / 1000
        phase = 6.3 * torch.rand((), generator=rng)
        return {"wave": 0.7 * torch.sin(6.2832 * (40 + 160 * label) * time + phase), "label": label}


def train(folder: Path, task: WaveformTask, steps: int, **options) -> Path:
    trainer = Trainer(
        folder, task, Tones(), steps=steps, batch_size=8, learning_rate=1e-2, lr_schedule="constant",
        ema=(0.9,), log_every=5, tensorboard=False, device="cpu", seed=1, **options,
    )  # fmt: skip
    return trainer.fit(resume=bool(options.get("checkpoint_every")))


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[SoundModel, Path]:
    """A model after thirty updates, and its checkpoint."""
    task = WaveformTask(sound_model(), "l2", 0.1)
    end = train(tmp_path_factory.mktemp("tones"), task, 30)
    load_weights(task, end)
    return task.model, end


def fixed_loss(model: SoundModel) -> float:
    items = [Tones()[n] for n in range(1000, 1032)]
    batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
    with torch.no_grad():
        return float(WaveformTask(model, "l2")(batch, torch.Generator().manual_seed(0))["loss"])


def test_the_trainer_lowers_the_loss(trained):
    assert fixed_loss(trained[0]) < 0.92 * fixed_loss(sound_model())


def test_a_resumed_training_ends_with_the_same_bits(trained, tmp_path):
    for steps in (10, 30):
        end = train(tmp_path, WaveformTask(sound_model(), "l2", 0.1), steps, checkpoint_every=10)
    whole, resumed = (read_checkpoint(path) for path in (trained[1], end))
    for ours, theirs in ((whole.weights(), resumed.weights()), (whole.average(0), resumed.average(0))):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_sound_depends_on_its_seed_alone_with_every_sampler(trained, sampler, monkeypatch):
    monkeypatch.setattr(trained[0].denoiser, "clamp", None)  # its kinks cost "langevin_ode" many steps
    gen = SoundGenerator(trained[0], "cpu", "float32")
    together = gen(["low", "high", "high"], seconds=0.02, seed=[4, 9, 2], sampler=sampler)
    assert together.isfinite().all()
    alone = gen("high", seconds=0.02, seed=9, sampler=sampler)
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=0)
    assert not torch.allclose(together[1:2], together[2:])


def test_a_folder_keeps_the_process_and_the_pipeline_takes_grids_and_guidance(trained, tmp_path):
    gen = SoundGenerator(trained[0], "cpu", "float32")
    again = mmdiff.load(save_model(trained[0], tmp_path / "tones", half=False), "cpu", "float32")
    denoiser = again.model.denoiser
    assert isinstance(denoiser, LangevinDenoiser)
    assert (denoiser.schedule, denoiser.prediction, denoiser.sees) == (CriticallyDamped(), "mixed", "pair")
    assert again.model.default_sampler == "sscs"
    assert torch.equal(again("low", seed=3), gen("low", seed=3))
    assert torch.equal(again("low", seed=3, grid="quadratic", steps=4), gen("low", seed=3))
    assert not torch.allclose(again("low", seed=3, grid=[1.0, 0.5, 0.2, 0.0]), gen("low", seed=3))
    for option in ({"guidance": 3}, {"temperature": 0.5}):
        assert not torch.allclose(again("low", seed=3, **option), gen("low", seed=3))
    with pytest.raises(
        InputError, match=r"sampler='ddim' must be one of pairs.*sscs, langevin_em, langevin_ode"
    ):
        again("low", sampler="ddim")


@pytest.mark.parametrize("method", ["reconstruction", "replacement"])
def test_gaps_are_filled_and_what_is_known_stays(trained, method):
    edit = gap_filling(Tones()[3]["wave"], 1000, [(0.02, 0.03)])
    made = edit_sound(SoundGenerator(trained[0], "cpu", "float32"), edit, "low", method=method, solves=2)
    assert torch.equal(made[edit.known], edit.wave[edit.known])
    assert made[~edit.known].abs().max() > 0


@pytest.mark.parametrize("kind", ["diffwave", "wavegrad"])
@pytest.mark.parametrize("shaped", [False, True])
def test_vocoders_of_pairs_train_and_sound_the_same_in_windows_and_batches(kind, shaped):
    options = {"prior": SpectralPrior(), "clamp": "deviations"} if shaped else {}
    model = vocoder(kind, **options)
    task = WaveformTask(model, "l1", balanced=shaped)
    loss = task({"wave": torch.randn(2, 640)}, torch.Generator().manual_seed(0))["loss"]
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    mel = torch.randn(2, 20, 80, generator=torch.Generator().manual_seed(0)) - 8
    whole = Vocoder(model, device="cpu", dtype="float32")(mel, seed=[3, 4])
    pieces = Vocoder(vocoder(kind, window=30, **options), device="cpu", dtype="float32")(mel[1:], seed=4)
    torch.testing.assert_close(pieces, whole[1:], atol=1e-5, rtol=0)
    assert whole.shape == (2, 79 * 64)
    assert (whole.abs() < 1).float().mean() > 0.5  # most is not clipped


def test_likelihood_of_recordings(trained, tmp_path):
    for name, wave in (
        ("tones", [Tones()[n]["wave"] for n in range(4)]),
        ("noise", [torch.rand(64) * 2 - 1]),
    ):
        (tmp_path / name).mkdir()
        for n, samples in enumerate(wave):
            io.write(tmp_path / name / f"{n}.wav", samples, 1000)
    sets = [tmp_path / "tones", tmp_path / "noise"]
    tones, noise = evaluate_sound_likelihood(SoundGenerator(trained[0]), sets, draws=4, progress=False)
    # of sixteen bits little is known after thirty updates, and less of other sound
    assert 12 < tones.measures["bits"].value < noise.measures["bits"].value < 20


def test_spectrograms_by_langevin_diffusion_need_no_other_network():
    torch.manual_seed(0)
    net = LabelledMelNet(80, 2, 5, 8, 1)
    model = MelSoundModel(net, CriticallyDamped(), MelSpec(), seconds=0.2, labels=("a", "b"), steps=2)
    task, batch = FramedSoundTask(model), {"wave": torch.randn(2, 3200), "label": torch.tensor([0, 1])}
    loss = task(batch, torch.Generator().manual_seed(0))["loss"]
    loss.backward()
    assert (model.default_sampler, model.denoiser.prediction) == ("sscs", "edm")
    assert loss.isfinite()


def test_recipes_train_and_their_vocoder_loads(clips, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    for name in ("english", "italian"):
        wave, rate = io.read(clips / f"{name}.flac")
        io.write(f"data/{name}.wav", wave[:, 8000:14_500], rate)
    small = ["--crop_frames", "4", "--batch_size", "1", "--steps", "2"]
    run_recipe("waveform_vocoder.langevin_tiny", ["--data", "data", "--run_dir", "run", *small])
    voc = mmdiff.load("run/model", "cpu", "float32")
    assert voc.model.denoiser.schedule == CriticallyDamped()
    assert voc(torch.randn(1, 80, 5) - 5).shape[0] == 1


@pytest.mark.parametrize("network", ["mel", "diffwave"])
def test_recipe_of_digits_trains_both_networks(
    network, spoken, tiny_model, tmp_path, monkeypatch, mmdiff_command
):
    monkeypatch.chdir(tmp_path)
    given = ["--data", str(spoken), "--run_dir", "run", "--vocoder", str(tiny_model), "--network", network]
    run_recipe("spoken_digits.langevin_tiny", given)
    options = [
        "--model",
        "run/model",
        "--steps",
        2,
        "--seconds",
        0.05,
        "--sampler",
        "langevin_em",
        "-o",
        "x.wav",
    ]
    outcome = mmdiff_command("sound", *options)
    assert outcome.status == 0, outcome.err
    assert io.read("x.wav")[0].isfinite().all()


def test_what_does_not_fit_is_named():
    plain = DiffWave(20, 4, 2, 2, (8, 8))
    spectral = DiffWave(20, 4, 2, 2, (8, 8), noise_input="log_snr")
    with pytest.raises(InputError, match="noise_input='aligned_index' must come with a BetaTable"):
        WaveformVocoder(MEL, plain, CriticallyDamped())
    with pytest.raises(InputError, match=r"must be left out with a schedule of pairs, CriticallyDamped"):
        vocoder(prior=EnergyPrior(0.0, 1.0))
    with pytest.raises(InputError, match="level_ahead=True must be left out"):
        vocoder(level_ahead=True)
    blind = WaveformVocoder(MEL, spectral, CriticallyDamped(), prediction="mixed")
    with pytest.raises(InputError, match=r"x of shape \(1, 2, 640\) must be \(batch=1, 1, samples=640\)"):
        Vocoder(blind, device="cpu")(torch.randn(1, 20, 10) - 5, steps=2)
    with pytest.raises(InputError, match=r"schedule=LinearFlow must be a BetaTable.*or CriticallyDamped"):
        WaveformTask(WaveformVocoder(MEL, spectral, LinearFlow(), prediction="v"))
    with pytest.raises(InputError, match="schedule=CriticallyDamped must be run by mmdiff"):
        make_graph(vocoder(), 2)
    with pytest.raises(InputError, match="inputs=0"):
        DiffWave(inputs=0)
