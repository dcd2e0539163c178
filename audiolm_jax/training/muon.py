"""The optimizer Muon: the update of each kernel is its momentum, made orthogonal.

Source: K. Jordan et al., "Muon" (kellerjordan.github.io/posts/muon), for the iteration and its
coefficients; "Muon is Scalable for LLM Training" (arXiv 2502.16982), section 2, for the scale of
the updates.
"""

import functools
import math
from collections.abc import Hashable
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
from jax.tree_util import KeyPath
from jaxtyping import Float, PyTree

from audiolm_jax.core.arrays import Array
from audiolm_jax.core.modules import Params

# Coefficients of x, x^3 and x^5: an iteration step maps each singular value x to this polynomial.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_STEPS = 5
_MOMENTUM = 0.95
_EPSILON = 1e-8
# Updates are scaled to this usual RMS of an AdamW update (arXiv 2502.16982, eq. 4).
_ADAM_UPDATE_RMS = 0.2
# If the long side of a matrix is at least this multiple of the short side, only the Gram matrix is
# iterated. A step then needs four products of square matrices. Otherwise, a step needs one product
# of square matrices and two products with the whole matrix.
_GRAM_RATIO = 1.5


class MatrixAxes(NamedTuple):
  """The axes of a kernel that form the rows and the columns of a matrix.

  Attributes:
    inputs: index of the first input axis; axes before this axis index stacked matrices.
    outputs: index of the first output axis; all later axes are output axes.
  """

  inputs: int
  outputs: int


def matrix_axes(path: KeyPath, value: jax.Array) -> MatrixAxes | None:
  """Returns the axes of a kernel as a matrix, or None if the parameter is not a kernel.

  The last axis of a kernel is its output axis, and the other axes are input axes. Exceptions are
  the projections to attention heads, which have one input axis and several output axes. Kernels
  under "layers" have a leading axis that indexes the layers.

  Args:
    path: path of the parameter in the tree of parameters.
    value: the parameter.
  """
  names = [entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey)]
  if names[-1:] != ["kernel"]:
    return None
  inputs = 1 if "layers" in names else 0
  to_heads = {"query", "key", "value"} & set(names)
  return MatrixAxes(inputs, inputs + 1 if to_heads else value.ndim - 1)


def muon(*, b1: float, b2: float) -> optax.GradientTransformation:
  """Returns an optimizer that updates kernels by Muon and all other parameters by Adam.

  Muon and Adam both use Nesterov momentum.

  Args:
    b1: decay of Adam's first moment.
    b2: decay of Adam's second moment.

  Returns:
    A gradient transformation whose updates are not yet scaled by a learning rate. Its state has the
    structure of `optax.contrib.muon`, which computes the same updates with about twice the
    operations.
  """

  def labels(params: Params) -> PyTree:
    return jax.tree_util.tree_map_with_path(
      lambda path, value: "muon" if matrix_axes(path, value) else "adam", params
    )

  transforms: dict[Hashable, optax.GradientTransformation] = {
    "muon": optax.chain(_scale_by_muon(), *[optax.identity()] * 3),
    "adam": optax.chain(optax.scale_by_adam(b1=b1, b2=b2, nesterov=True), *[optax.identity()] * 2),
  }
  return optax.partition(transforms, labels)


def orthogonalized(matrix: Float[Array, "inputs outputs"]) -> Float[Array, "inputs outputs"]:
  """Returns a matrix with the same singular vectors and with singular values near 1.

  Singular values that are not very small become values between 0.7 and 1.2. The iteration
  multiplies the matrix by polynomials of its Gram matrix. If the sides are unequal, the product of
  these polynomials is computed first, which needs fewer operations. Every step increases small
  eigenvalues and their rounding errors, so this product is computed in full float32 precision.
  """
  matrix = matrix / (jnp.linalg.norm(matrix) + _EPSILON)
  first, third, fifth = _COEFFICIENTS
  wide = matrix.shape[0] <= matrix.shape[1]
  short, long = sorted(matrix.shape)
  use_gram = long >= _GRAM_RATIO * short
  dot = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST if use_gram else None)

  def gram(x: Array) -> Array:
    return dot(x, x.T) if wide else dot(x.T, x)

  def factor(squares: Array) -> Array:
    return first * jnp.eye(short) + third * squares + fifth * dot(squares, squares)

  def times(x: Array, square: Array) -> Array:
    return dot(square, x) if wide else dot(x, square)

  if not use_gram:
    for _ in range(_STEPS):
      matrix = times(matrix, factor(gram(matrix)))
    return matrix
  squares = gram(matrix)
  step = product = factor(squares)
  for _ in range(_STEPS - 1):
    # All factors are polynomials of the same symmetric matrix, so their order does not matter.
    squares = dot(dot(squares, step), step)
    step = factor(squares)
    product = dot(step, product)
  return times(matrix, product)


def _scale_by_muon() -> optax.GradientTransformation:
  """Returns an optimizer that updates a tree of kernels by Muon."""

  def init(params: Params) -> optax.contrib.MuonState:
    momentum = jax.tree.map(jnp.zeros_like, params)
    return optax.contrib.MuonState(jnp.zeros([], jnp.int32), momentum, jnp.asarray(_COEFFICIENTS))

  def update(
    updates: PyTree, state: optax.contrib.MuonState, params: Params | None = None
  ) -> tuple[PyTree, optax.contrib.MuonState]:
    del params
    count = jnp.asarray(state.count) + 1
    momentum = jax.tree.map(lambda m, g: _MOMENTUM * m + (1 - _MOMENTUM) * g, state.mu, updates)
    # Nesterov momentum with bias correction of the momentum and of the gradient.
    next_sum, this_sum = 1 - _MOMENTUM ** (count + 1), 1 - _MOMENTUM**count

    def mixed(m: Array, g: Array) -> Array:
      return _MOMENTUM * m / next_sum + (1 - _MOMENTUM) * g / this_sum

    directions = _orthogonalized_tree(jax.tree.map(mixed, momentum, updates))
    return directions, optax.contrib.MuonState(count, momentum, state.ns_coeffs)

  return optax.GradientTransformation(
    cast(optax.TransformInitFn, init), cast(optax.TransformUpdateFn, update)
  )


def _orthogonalized_tree(kernels: Params) -> Params:
  """Returns the orthogonalized kernels, scaled to the RMS of an AdamW update.

  Matrices of equal shape are processed together as one stack, with few large operations.
  """
  found, structure = jax.tree_util.tree_flatten_with_path(kernels)
  stacks: dict[tuple[int, int], list[int]] = {}
  matrices = []
  for index, (path, kernel) in enumerate(found):
    matrices.append(_matrices_of(path, kernel))
    stacks.setdefault(matrices[-1].shape[1:], []).append(index)
  results = [kernel for _, kernel in found]
  for (inputs, outputs), members in stacks.items():
    scale = _ADAM_UPDATE_RMS * max(inputs, outputs) ** 0.5
    stack = jnp.concatenate([matrices[index] for index in members])
    made = scale * jax.vmap(orthogonalized)(stack)
    ends = np.cumsum([len(matrices[index]) for index in members])
    for index, part in zip(members, jnp.split(made, ends[:-1]), strict=True):
      results[index] = part.reshape(results[index].shape)
  return jax.tree.unflatten(structure, results)


def _matrices_of(path: KeyPath, kernel: Float[Array, "..."]) -> Float[Array, "matrices in out"]:
  """Returns a kernel as a stack of matrices [matrices, inputs, outputs]."""
  axes = matrix_axes(path, kernel)
  assert axes is not None, path  # Adam updates all other parameters
  inputs = math.prod(kernel.shape[axes.inputs : axes.outputs])
  outputs = math.prod(kernel.shape[axes.outputs :])
  return kernel.reshape(-1, inputs, outputs)
