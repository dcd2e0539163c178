"""The JSON of error responses to programs."""

from audiolm_jax.core.configs import JsonDict

API = "/v1/"  # prefix of the URL paths for programs


def error_json(
  status: int, message: str, param: str | None = None, code: str | None = None
) -> JsonDict:
  """Returns the body of an error response.

  Args:
    status: HTTP status of the response.
    message: description of the error, and how to fix it.
    param: name of the request field that is wrong; None for an error of the whole request.
    code: short name of the error; None for an error without a name.
  """
  kinds = {429: "rate_limit_error"}
  kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
  return {"error": {"message": message, "type": kind, "param": param, "code": code}}
