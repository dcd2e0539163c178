"""The JSON of errors that programs receive."""

from audiolm_jax.core.configs import JsonDict

API = "/v1/"  # the beginning of the paths of programs


def error_json(
  status: int, message: str, param: str | None = None, code: str | None = None
) -> JsonDict:
  """Returns the body of an answer with an error.

  Args:
    status: of the answer.
    message: the error and how to fix it.
    param: the field of the request that is wrong; None for the request as a whole.
    code: the error as one word.
  """
  kinds = {429: "rate_limit_error"}
  kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
  return {"error": {"message": message, "type": kind, "param": param, "code": code}}
