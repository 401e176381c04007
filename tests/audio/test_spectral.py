"""The spectral vocoder's pieces and pipeline, on a small untrained model: what must hold whatever the weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import mmdiff.audio.spectral_windows as windows
from mmdiff.audio.evaluation.baselines import without_network
from mmdiff.audio.magnitude import MagnitudeNet, from_state, to_state
from mmdiff.audio.mel import preset
from mmdiff.audio.mel.variety import random_mel_spec
from mmdiff.audio.networks.spectral import deepened, thinned
from mmdiff.audio.noise import frame_noise
from mmdiff.audio.phase import PhaseNet
from mmdiff.audio.spectral import SpectralVocoder
from mmdiff.audio.stft import Stft
from mmdiff.audio.tasks import SketchTask, SpectralTask
from mmdiff.audio.vocoder import Vocoder
from mmdiff.errors import InputError
from mmdiff.registry import from_config, to_config
from mmdiff.training.adversarial import critic_hinge
from mmdiff.weights import assign_tensors, named_tensors

STFT = Stft()
MEL = preset("mmdiff-16k")


def small_model(
    iterations: int = 4, corrections: tuple[int, ...] = (0, 1), sketch: int = 0
) -> SpectralVocoder:
    """With a sketch of so many of the magnitude's two blocks, if any."""
    torch.manual_seed(0)
    networks = (MagnitudeNet(STFT, channels=16, depth=2), PhaseNet(STFT, channels=16, depth=2))
    shallow = MagnitudeNet(STFT, channels=16, depth=sketch) if sketch else None
    if shallow is not None:
        assign_tensors(
            shallow, thinned(named_tensors(shallow), named_tensors(networks[0])), source="magnitude"
        )
    model = SpectralVocoder(STFT, MEL, *networks, iterations, corrections=corrections, sketch=shallow)
    with torch.no_grad():  # corrections that matter
        model.phase.network.write.weight.mul_(20)
    return model.eval()


@pytest.fixture(scope="module")
def vocoder() -> Vocoder:
    return Vocoder(small_model(), device="cpu", dtype="float32")


def sound(samples: int, seed: int = 0) -> torch.Tensor:
    """Noise with a moving spectrum and level, so that frames differ."""
    generator = torch.Generator().manual_seed(seed)
    wave = 0.1 * torch.randn(1, samples, generator=generator).cumsum(-1).diff(prepend=torch.zeros(1, 1))
    return wave * (0.3 + torch.linspace(0, 40, samples).sin().square())


def test_state_and_magnitude_are_inverse_and_the_mel_is_met():
    model = small_model()
    wave = sound(16_384)
    conditions = model.conditions(MEL(wave), MEL)
    magnitude = STFT(wave).abs().clamp_min(conditions.prior * 0.01)
    back = from_state(to_state(magnitude, conditions.prior), conditions)
    reached = (magnitude / conditions.prior < 16)[..., :-1]
    ratio = (back / magnitude)[..., :-1][reached]
    assert float(ratio.log().abs().mean()) < 0.05
    error = (conditions.bands.of(back) / conditions.bands.values).log().abs()
    assert float(error.mean()) < 0.02


def test_vocoding_keeps_length_range_and_is_finite(vocoder):
    for frames in (1, 2, 7, 40):
        wave = vocoder(torch.randn(1, 80, frames) - 5)
        assert wave.shape == (1, max(1, frames - 1) * 256)
        assert bool(wave.isfinite().all())
        assert float(wave.abs().amax()) <= 1
    exact = vocoder(torch.randn(1, 80, 40) - 5, samples=40 * 256 - 100)
    assert exact.shape == (1, 40 * 256 - 100)
    with pytest.raises(InputError, match="samples=20000"):
        vocoder(torch.randn(1, 80, 40) - 5, samples=20_000)


def test_an_item_depends_on_its_seed_alone(vocoder):
    mel = torch.randn(3, 80, 30, generator=torch.Generator().manual_seed(0)) - 5
    together = vocoder(mel, seed=[5, 6, 7], steps=3)
    alone = vocoder(mel[1], seed=6, steps=3)
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=0)
    other = vocoder(mel[1], seed=9, steps=3)
    assert float((other - alone).abs().amax()) > 1e-3
    mixed = vocoder([mel[0], mel[1, :, :20]], seed=[5, 6], steps=3)
    assert [len(w) for w in mixed] == [29 * 256, 19 * 256]
    torch.testing.assert_close(mixed[1][None], vocoder(mel[1, :, :20], seed=6, steps=3), atol=1e-4, rtol=0)


def test_whole_numbers_are_no_sound(vocoder):
    with pytest.raises(InputError, match="must be floating point: divide int16 samples"):
        vocoder.mel(torch.zeros(1, 8000, dtype=torch.int16), 16_000)


def test_zero_temperature_has_no_diversity(vocoder):
    mel = torch.randn(1, 80, 30) - 5
    torch.testing.assert_close(vocoder(mel, seed=1, temperature=0.0), vocoder(mel, seed=2, temperature=0.0))


@pytest.mark.parametrize(
    "sampler", ["ddpm", "euler_ancestral", "dpmpp_2m_sde", "predictor_corrector", "sscs"]
)
def test_the_noise_that_a_sampler_adds_is_of_its_seed_and_place_too(vocoder, monkeypatch, sampler):
    mel = torch.randn(2, 80, 200, generator=torch.Generator().manual_seed(0)) - 5

    def make(item: int | slice, **options: Any) -> torch.Tensor:
        return vocoder(mel[item], sampler=sampler, **{"steps": 4, "seed": 6, **options})

    def distance(one: torch.Tensor, other: torch.Tensor) -> float:
        return float((one - other).square().mean() / other.square().mean())

    alone = make(1)
    assert torch.equal(make(1), alone)
    assert distance(make(slice(0, 2), seed=[5, 6])[1:], alone) < 1e-3
    assert distance(make(1, seed=7), alone) > 0.1
    if sampler == "predictor_corrector":
        return  # its step is long as the noise of all frames is
    assert distance(make(1, seed=7, temperature=0.0), make(1, temperature=0.0)) < 1e-6
    monkeypatch.setattr(windows, "WINDOW", 64)
    assert len(list(vocoder.blocks(mel[1], steps=4))) == 3
    assert distance(make(1), alone) < 1e-3


@pytest.mark.parametrize(
    ("steps", "settings"),
    [(3, {}), (3, {"corrections": (1, 1, 2)}), (1, {"corrections": (1,), "sketch": 2})],
)
def test_windows_give_what_the_whole_gives(monkeypatch, steps, settings):
    """Six windows against one: the same waveform to -60 dB, no seam at the joints."""
    vocoder = Vocoder(small_model(8, **settings), device="cpu", dtype="float32")
    mel = vocoder.mel(sound(16_000 * 13), 16_000)
    whole = vocoder(mel, steps=steps)
    monkeypatch.setattr(windows, "WINDOW", 128)
    blocks = list(vocoder.blocks(mel, steps=steps))
    assert len(blocks) == mel.shape[-1] // 128 == 6
    cut = torch.cat(blocks, -1)
    assert cut.shape == whole.shape
    error = (cut - whole).square().mean() / whole.square().mean()
    assert float(error) < 1e-6
    joint = blocks[0].shape[1]
    worst = (cut - whole)[:, joint - 512 : joint + 512].abs().amax() / whole.abs().amax()
    assert float(worst) < 1e-2


def test_frame_noise_belongs_to_its_place():
    whole = frame_noise(3, 0, 300, 4)
    torch.testing.assert_close(frame_noise(3, 70, 131, 4), whole[70:131])
    assert abs(float(whole.mean())) < 0.1
    assert abs(float(whole.std()) - 1) < 0.1
    assert not torch.equal(frame_noise(4, 0, 64, 4), whole[:64])


@pytest.mark.parametrize("name", ["hifigan-22k", "bigvgan-24k-100", "vocos-24k-100", "lmnt-diffwave-22k"])
def test_one_model_takes_every_preset_and_says_so(vocoder, name):
    spec = preset(name)
    mel = spec(0.1 * torch.randn(1, spec.sample_rate))
    wave = vocoder(mel, mel_spec=name)
    assert abs(wave.shape[1] - 16_000) < 400
    assert any(str(spec.sample_rate) in note for note in vocoder.notes)


def test_one_evaluation_leaves_out_the_phase_network():
    model = small_model()
    plain = SpectralVocoder(STFT, MEL, model.denoiser.network, None, model.iterations).eval()
    mel = torch.randn(1, 80, 20) - 5
    one = Vocoder(model, device="cpu", dtype="float32")(mel, steps=1)
    torch.testing.assert_close(one, Vocoder(plain, device="cpu", dtype="float32")(mel, steps=1))


def test_evaluations_are_shared_out_as_corrections_say():
    old, new = small_model(), small_model(corrections=(1, 1, 2))
    sampled = {model: [len(model.grid(steps)) - 1 for steps in range(1, 6)] for model in (old, new)}
    assert sampled == {old: [1, 1, 2, 3, 4], new: [0, 1, 1, 2, 3]}
    assert [old.phase_levels(steps) for steps in (1, 2, 5)] == [(), (0.0,), (0.0,)]
    assert [new.phase_levels(steps) for steps in (1, 2, 3, 5)] == [(1.0,), (0.0,), (0.0, 0.5), (0.0, 0.5)]
    for wrong in ((), (2,), (0, 2), (1, -1)):
        with pytest.raises(InputError, match="corrections"):
            small_model(corrections=wrong)


def test_one_evaluation_can_correct_what_the_pipeline_makes_without_networks():
    model = small_model(corrections=(1, 1))
    with torch.no_grad():  # so that it matters what the network is told
        for block in model.phase.network.blocks:
            block.modulation.weight.normal_(std=0.3)
        wave = sound(8192)
        mel = MEL(wave)
        conditions = model.conditions(mel, MEL, STFT.frames(8192))
        plain = STFT(without_network(model, mel[0], MEL, 8192)[None])
        magnitude = conditions.bands.rescale(conditions.prior)
        corrected = (
            model.phase(plain, magnitude, conditions.prior, conditions.context, level) for level in (1.0, 0.0)
        )
        heard = [STFT(STFT.inverse(spectrum, 8192)) for spectrum in corrected]
        scaled = [x * conditions.bands.rescale(x.abs(), iterations=1) / x.abs() for x in heard]
        expected, other = (STFT.inverse(spectrum, 8192) for spectrum in scaled)
    found = Vocoder(model, device="cpu", dtype="float32")(mel, steps=1, samples=8192, seed=3)
    torch.testing.assert_close(found, expected.clamp(-1, 1), atol=1e-4, rtol=0)
    assert float((expected - other).abs().amax()) > 1e-3


def test_a_sketch_of_all_blocks_is_the_denoiser_without_noise():
    model = small_model(corrections=(1, 1), sketch=2)
    vocoder = Vocoder(model, device="cpu", dtype="float32")
    mel = MEL(sound(8192))
    one = vocoder(mel, steps=1)
    torch.testing.assert_close(one, vocoder(mel, steps=2, temperature=0.0), atol=1e-5, rtol=0)
    assert float((one - vocoder(mel, steps=2, seed=0)).abs().amax()) > 1e-3
    model.sketch = None
    assert float((one - vocoder(mel, steps=1)).abs().amax()) > 1e-3
    with pytest.raises(InputError, match="with a sketch must begin with 1"):
        small_model(corrections=(0, 1), sketch=2)


def test_a_sketch_learns_from_the_denoiser_alone():
    batch = {"wave": torch.cat([sound(8192, seed) for seed in range(2)])}
    whole = SketchTask(small_model(corrections=(1, 1), sketch=2), variety=0.0)
    assert float(whole(batch, torch.Generator())["loss"].detach()) < 1e-10
    model = small_model(corrections=(1, 1), sketch=1)
    loss = SketchTask(model, variety=0.0)(batch, torch.Generator())["loss"]
    conditions = model.conditions(MEL(batch["wave"]), MEL, STFT.frames(8192))
    states = [
        net.regress(conditions.prior, conditions.context) for net in (model.sketch, model.denoiser.network)
    ]
    root = conditions.prior[:, None, :, :-1]
    loudness = (
        root
        / root.new_tensor([float(p.square().mean().sqrt()) for p in conditions.prior])[:, None, None, None]
    )
    wanted = (loudness.clamp(1e-3, 30).sqrt() * (states[0] - states[1]).square()).mean()
    torch.testing.assert_close(loss, wanted, rtol=1e-5, atol=0)
    loss.backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        f"sketch.{name}" for name, _ in model.sketch.named_parameters()
    }
    with pytest.raises(InputError, match="without a sketch"):
        SketchTask(small_model())


def test_blocks_of_a_shallower_network_are_evenly_chosen():
    nets = {depth: MagnitudeNet(STFT, channels=4, depth=depth) for depth in (1, 3, 5)}
    for depth, chosen in {1: [0], 3: [0, 2, 4], 5: [0, 1, 2, 3, 4]}.items():
        taken = thinned(named_tensors(nets[depth]), named_tensors(nets[5]))
        assert taken.keys() == named_tensors(nets[depth]).keys()
        for place, number in enumerate(chosen):
            ours, theirs = (
                taken[f"network.blocks.{place}.widen.weight"],
                nets[5].network.blocks[number].widen.weight,
            )
            assert ours is theirs
        assert taken["network.write.weight"] is nets[5].network.write.weight


def test_a_schedule_wants_an_evaluation_of_the_sampler():
    vocoder = Vocoder(small_model(corrections=(1, 1, 2)), device="cpu")
    assert len(vocoder.sampling(1).grid) == 1
    assert len(vocoder.sampling(2, grid="karras").grid) == 2
    with pytest.raises(InputError, match="steps=1 must leave one evaluation for the sampler"):
        vocoder.sampling(1, grid="karras")


def test_sound_comes_near_the_spectrogram_that_it_was_made_of(monkeypatch):
    model = small_model(corrections=(1, 1))
    mel = MEL(sound(8192))
    distance = []
    for _ in ("scaled", "as it is"):
        made = Vocoder(model, device="cpu", dtype="float32")(mel, steps=2, samples=8192)
        distance.append(float((MEL(made) - mel).abs().mean()))
        monkeypatch.setattr(SpectralVocoder, "_scaled_to_mel", lambda self, spectrum, *_: spectrum)
    assert distance[0] < 0.7 * distance[1]


def test_an_adversarial_task_keeps_the_players_apart():
    model = small_model(corrections=(1, 1)).train()
    task = SpectralTask(
        model, denoising=0.0, unrolled=1.0, steps=(1,), variety=0.0, hearing=0.1, adversarial=0.1
    )
    batch = {"wave": torch.cat([sound(8192, seed) for seed in range(2)])}
    losses = task(batch, torch.Generator().manual_seed(0))
    assert losses.keys() == {"loss", "unrolled", "hearing", "adversarial", "critical"}
    weights = {"unrolled": 1.0, "hearing": 0.1, "adversarial": 0.1, "critical": 1.0}
    expected = sum(weight * float(losses[name]) for name, weight in weights.items())
    assert float(losses["loss"].detach()) == pytest.approx(expected, rel=1e-5)
    losses["loss"].backward()
    with torch.no_grad():
        estimate = task._unroll(
            batch["wave"], task._conditions(batch["wave"], torch.Generator()), torch.Generator()
        )
    own = critic_hinge(
        [j.score for j in task.critic(batch["wave"])], [j.score for j in task.critic(estimate)]
    )
    for parameter, grad in zip(
        task.critic.parameters(), torch.autograd.grad(own, list(task.critic.parameters())), strict=True
    ):
        torch.testing.assert_close(parameter.grad, grad, atol=1e-5, rtol=1e-3)
    assert all(p.grad is not None for p in model.phase.parameters())


def test_a_deeper_model_begins_as_the_one_that_it_goes_on_from():
    model = small_model().denoiser.network
    deeper = MagnitudeNet(STFT, channels=16, depth=3)
    assign_tensors(deeper, deepened(named_tensors(deeper), named_tensors(model)), source="model")
    rng = torch.Generator().manual_seed(0)
    inputs = [
        torch.rand(size, generator=rng)
        for size in ((2, 1, 5, STFT.bins - 1), (2,), (2, 5, STFT.bins), (2, 5, 80))
    ]
    assert torch.equal(deeper(*inputs), model(*inputs))
    deeper(*inputs).square().sum().backward()
    assert deeper.network.blocks[2].gate.grad.abs().min() > 0


def test_models_survive_their_config():
    model = small_model(corrections=(1, 1, 2), sketch=1)
    twin = from_config(to_config(model))
    twin.load_state_dict(model.state_dict())
    mel = torch.randn(1, 80, 12) - 5
    for steps in (1, 2):
        ours, theirs = (Vocoder(m, "cpu", "float32")(mel, steps=steps) for m in (model, twin.eval()))
        torch.testing.assert_close(ours, theirs)


def test_training_lowers_both_losses():
    torch.manual_seed(0)
    model = small_model().train()
    task = SpectralTask(model, denoising=1.0, unrolled=1.0, variety=0.0)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    batch = {"wave": torch.cat([sound(8192, seed) for seed in range(2)])}
    history = []
    for step in range(12):
        losses = task(batch, torch.Generator().manual_seed(step % 2))
        optimizer.zero_grad()
        losses["loss"].backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())
        optimizer.step()
        history.append([float(losses[name]) for name in ("denoising", "unrolled")])
    first, last = history[0], history[-2]
    assert last[0] < first[0]
    assert last[1] < first[1]


def test_random_mel_specs_are_valid_varied_and_reproducible():
    drawn = [random_mel_spec(torch.Generator().manual_seed(n), MEL, 1.0) for n in range(60)]
    assert drawn == [random_mel_spec(torch.Generator().manual_seed(n), MEL, 1.0) for n in range(60)]
    assert len({spec.n_mels for spec in drawn}) > 10
    assert len({spec.sample_rate for spec in drawn}) == 3
    assert all(spec.n_mels >= 80 for spec in drawn)
    assert random_mel_spec(torch.Generator().manual_seed(0), MEL, 0.0) == MEL
    rare = replace(MEL, sample_rate=8000, f_max=4000.0)  # no preset has a rate near it
    assert random_mel_spec(torch.Generator().manual_seed(0), rare, 1.0) == rare
