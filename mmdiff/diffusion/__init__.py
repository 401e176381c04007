"""The shared diffusion core: tensors and time only; knows no audio, no video, no files.

In reading order:

Process
    :mod:`~mmdiff.diffusion.schedules` are α(t) and σ(t), by formula or by table; ``process`` is the Gaussian process
    they make, ``conversions`` what networks predict of it.
Denoiser
    ``denoiser`` makes a network the one thing that samplers and guidance see, ``denoiser(x, t, **cond) -> x0``;
    ``conditions`` are what it is told, ``scalings`` how a network's input and output are scaled; that of a
    ``mixed_denoiser`` corrects a normal distribution.
Training
    ``objectives`` draws ``times`` and weighs the losses by ``weightings``; ``vlb`` learns variances too, ``importance``
    draws times in proportion to what they count.
Sampling
    ``samplers`` is the entry, ``sampler_table`` says what a sampler is and lists them, ``grids`` where they stop. Each
    ``solvers_...`` is a family; ``solver_tools`` is what all share. ``search`` finds grids of few steps, by
    ``coordinates`` or along ``routes``.
Guidance and editing
    ``guidance`` makes denoisers of denoisers; ``measurement`` says what is known of the data (``measurement_combine``,
    ``bounds``, ``linear_solve``), ``reconstruction`` has a denoiser agree with it.
Likelihood
    ``likelihood`` is the variational bound, ``likelihood_ode`` the ODE's exact one (``likelihood_paths`` has the ODEs,
    ``divergence`` the traces); ``decoders`` take the last step of a bound, ``quantisation`` says how data are whole
    numbers. All serve pairs too.
Relatives
    ``langevin`` diffuses data with a velocity (``langevin_levels``, ``langevin_denoiser``, ``langevin_walk``,
    ``hybrid_score``), ``adversarial`` takes few large steps by a generator; ``building`` makes what fits a schedule.
"""
