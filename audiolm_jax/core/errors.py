"""Errors caused by what the user passed in; each message is one line that says how to fix it."""


class UserError(ValueError):
  """An error that the user can fix. The message names the input, its value and the fix."""


class AudioError(UserError):
  """An audio file or waveform cannot be used."""


class ConfigError(UserError):
  """A configuration is invalid."""


class BundleError(UserError):
  """A bundle is missing, damaged or inconsistent."""


class DataError(UserError):
  """Training data cannot be used."""


class CheckpointError(UserError):
  """A checkpoint cannot be restored."""
