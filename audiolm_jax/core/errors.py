"""Errors caused by the user's input; each message is one line and includes the fix."""


class UserError(ValueError):
  """Raised for an error that the user can fix; the message names the input, its value and a fix."""


class AudioError(UserError):
  """Raised when an audio file or waveform cannot be used."""


class ConfigError(UserError):
  """Raised when a configuration is invalid."""


class BundleError(UserError):
  """Raised when a bundle is missing, damaged or inconsistent."""


class DataError(UserError):
  """Raised when training data cannot be used."""


class CheckpointError(UserError):
  """Raised when a checkpoint cannot be restored."""
