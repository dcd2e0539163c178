"""Errors that the user can fix."""


class UserError(ValueError):
  """Raised for an error that the user can fix; the message is one line and usually names a fix."""


class AudioError(UserError):
  """Raised when an audio file or waveform cannot be used."""


class ConfigError(UserError):
  """Raised when a configuration is invalid."""


class BundleError(UserError):
  """Raised when a bundle is missing, damaged or inconsistent, or lacks a required part."""


class DataError(UserError):
  """Raised when tokens, texts or training data cannot be used."""


class CheckpointError(UserError):
  """Raised when a checkpoint is missing or cannot be restored."""
