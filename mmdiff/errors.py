"""Errors for users: each message says what, the value, the rule and the next step."""

from __future__ import annotations


class MmdiffError(Exception):
    """Base of every error mmdiff raises on purpose."""


class InputError(MmdiffError, ValueError):
    """An argument, tensor or media file breaks a rule; the message names value, rule and remedy."""


class RecipeError(MmdiffError):
    """A recipe, its configuration or its data cannot be run as asked."""


class CheckpointError(MmdiffError):
    """A model folder or a training checkpoint cannot be read, or does not fit."""
