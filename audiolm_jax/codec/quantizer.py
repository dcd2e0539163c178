"""Residual vector quantizer: k-means initialization, moving-average codebooks, restarts.

Source: SoundStream, section III-C; moving averages after VQ-VAE-2.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Float, Int, Key, PyTree

from audiolm_jax.core import products
from audiolm_jax.core.arrays import Array


@flax.struct.dataclass
class QuantizerState:
  """The state of the quantizer, which is updated without gradients.

  Attributes:
    codebooks: [quantizers, size, dim], one table per level, coarse to fine.
    counts: [quantizers, size], moving average of the number of vectors per batch that use an entry.
    sums: [quantizers, size, dim], moving average of the sum of these vectors.
  """

  # The type is not Array, because the fields can also contain shapes or shardings.
  codebooks: PyTree
  counts: PyTree
  sums: PyTree


def init_quantizer(num_quantizers: int, codebook_size: int, dim: int) -> QuantizerState:
  """Returns a state of zeros; `kmeans_start` computes a state from data."""
  shape = (num_quantizers, codebook_size, dim)
  return QuantizerState(jnp.zeros(shape), jnp.zeros(shape[:2]), jnp.zeros(shape))


def quantizer_of(codebooks: Float[Array, "quantizers size dim"], mean_use: float) -> QuantizerState:
  """Returns a state with the given codebooks and the count `mean_use` for every entry."""
  counts = jnp.full(codebooks.shape[:2], mean_use)
  return QuantizerState(codebooks, counts, codebooks * mean_use)


def nearest(
  x: Float[Array, "*batch dim"], codebook: Float[Array, "size dim"]
) -> Int[Array, "*batch"]:
  """Returns the index of the nearest entry by Euclidean distance; the lowest index for ties.

  With bfloat16 products in training, rounding errors may select a different, almost as near entry.
  """
  norms = jnp.sum(jnp.square(codebook), -1)
  if products.rounds(x, codebook):
    similarity = products.matmul(x, codebook.T)
  else:
    similarity = jnp.einsum("...d,nd->...n", x, codebook)
  distance = norms - 2 * similarity
  return jnp.argmin(distance, axis=-1).astype(jnp.int32)


def residual_quantize(
  x: Float[Array, "*batch dim"], codebooks: Float[Array, "quantizers size dim"]
) -> Int[Array, "*batch quantizers"]:
  """Returns the nearest code per level; each level quantizes the residual of the previous level.

  Returns:
    Codes in [0, size). Level q depends on levels < q only, so codes[..., :k] is the k-level code.

  Source: SoundStream, section III-C.
  """

  def level(residual, codebook):
    codes = nearest(residual, codebook)
    return residual - codebook[codes], codes

  _, codes = lax.scan(level, x, codebooks)
  return jnp.moveaxis(codes, 0, -1)


def beam_quantize(
  x: Float[Array, "*batch dim"], codebooks: Float[Array, "quantizers size dim"], width: int
) -> Int[Array, "*batch quantizers"]:
  """Returns the codes with the smallest quantization error that a beam search finds.

  At each level, the search extends all its code sequences by all entries of the codebook. Then it
  keeps the `width` sequences with the smallest residuals. `residual_quantize` is the search with
  width 1. For larger widths, the first k codes of the result can differ from the result of a search
  with k levels, but their quantization error is close to the error of that result.

  Args:
    x: vectors to quantize.
    codebooks: one table per level, coarse to fine.
    width: number of sequences to keep.
  """
  levels, size, dim = codebooks.shape
  flat = x.reshape(-1, dim)
  kept = (len(flat), width)
  norms = jnp.sum(jnp.square(codebooks), -1)
  # The search starts with copies of the vector. The error of all copies but the first is infinite,
  # so the first level extends only the first copy.
  is_first = jnp.arange(width) == 0
  start = (
    jnp.broadcast_to(flat[:, None], (*kept, dim)),
    jnp.zeros((*kept, levels), jnp.int32),
    jnp.broadcast_to(jnp.where(is_first, 0.0, jnp.inf), kept),
  )

  def extend(carry, inputs):
    residuals, codes, unused = carry
    codebook, norm, level = inputs
    errors = jnp.sum(jnp.square(residuals), -1) + unused
    distance = errors[..., None] + norm - 2 * jnp.einsum("...d,nd->...n", residuals, codebook)
    _, chosen = lax.top_k(-distance.reshape(len(flat), -1), width)
    parents, code = chosen // size, chosen % size
    residuals, codes, unused = jax.tree.map(
      lambda of_kept: jnp.take_along_axis(
        of_kept, parents.reshape(kept + (1,) * (of_kept.ndim - 2)), axis=1
      ),
      (residuals, codes, unused),
    )
    return (residuals - codebook[code], codes.at[..., level].set(code), unused), None

  (_, codes, _), _ = lax.scan(extend, start, (codebooks, norms, jnp.arange(levels)))
  # The kept sequences are sorted by their residuals.
  return codes[:, 0].reshape(*x.shape[:-1], levels)


def quantizer_flops(frames: int, num_quantizers: int, codebook_size: int, dim: int) -> float:
  """Returns the floating-point operations of the matrix products of `residual_quantize`."""
  return 2.0 * frames * num_quantizers * codebook_size * dim


def dequantize(
  codes: Int[Array, "*batch levels"], codebooks: Float[Array, "quantizers size dim"]
) -> Float[Array, "*batch dim"]:
  """Returns the sum over levels of the entries with the indices `codes`.

  `codes` may have fewer levels than `codebooks`; the remaining codebooks are then not used.
  """
  total = jnp.zeros((*codes.shape[:-1], codebooks.shape[-1]))
  for level in range(codes.shape[-1]):
    total = total + codebooks[level][codes[..., level]]
  return total


def quantize_train(
  x: Float[Array, "batch frames dim"],
  state: QuantizerState,
  levels: Int[Array, "batch"],
  rng: Key[Array, ""],
  *,
  decay: float,
  restart_share: float,
) -> tuple[
  Float[Array, "batch frames dim"], Float[Array, ""], QuantizerState, dict[str, jax.Array]
]:
  """Quantizes with a straight-through gradient and updates the codebooks.

  Args:
    x: output of the encoder.
    state: codebooks and their moving averages.
    levels: number of levels that each example uses (quantizer dropout).
    rng: key for the selection of restart vectors.
    decay: decay of the moving averages per step.
    restart_share: an entry is restarted if its count is below this share of the mean count. A
      random residual of the batch then replaces the entry.

  Returns:
    The quantized latents, whose gradient passes unchanged to `x`; the commitment loss (mean over
    elements and active levels); the new state; and statistics per level: "perplexity" [quantizers]
    of the counts, "dead" [quantizers] (number of restarted entries) and "restarted" (bool
    [quantizers, size]).
  """
  batch, frames, dim = x.shape
  size = state.codebooks.shape[1]
  flat = lax.stop_gradient(x).reshape(-1, dim)
  mean_use = flat.shape[0] / size

  def level(carry, inputs):
    residual, total, commitment = carry
    codebook, counts, sums, index, key = inputs
    codes = nearest(lax.stop_gradient(residual), codebook)
    chosen = codebook[codes]
    active = (index < levels)[:, None, None]
    commitment += jnp.sum(jnp.where(active, jnp.square(residual - chosen), 0.0))
    total = total + jnp.where(active, chosen, 0.0)

    vectors = lax.stop_gradient(residual).reshape(-1, dim)
    weights = jnp.broadcast_to(active[..., 0], (batch, frames)).reshape(-1).astype(x.dtype)
    flat_codes = codes.reshape(-1)
    use = jax.ops.segment_sum(weights, flat_codes, size)
    batch_sums = jax.ops.segment_sum(vectors * weights[:, None], flat_codes, size)
    scale = vectors.shape[0] / jnp.maximum(jnp.sum(weights), 1.0)
    has_data = jnp.sum(weights) > 0
    new_counts = jnp.where(has_data, decay * counts + (1 - decay) * use * scale, counts)
    new_sums = jnp.where(has_data, decay * sums + (1 - decay) * batch_sums * scale, sums)
    smoothed = (new_counts + 1e-5) / (jnp.sum(new_counts) + size * 1e-5) * jnp.sum(new_counts)
    updated = new_sums / jnp.maximum(smoothed, 1e-7)[:, None]

    dead = new_counts < restart_share * mean_use
    fresh = vectors[jax.random.randint(key, (size,), 0, vectors.shape[0])]
    # The count of a restarted entry is half the mean count, so the next restart of the entry needs
    # several steps without use.
    new_counts = jnp.where(dead, 0.5 * mean_use, new_counts)
    updated = jnp.where(dead[:, None], fresh, updated)
    new_sums = jnp.where(dead[:, None], fresh * 0.5 * mean_use, new_sums)

    share = new_counts / jnp.maximum(jnp.sum(new_counts), 1e-7)
    perplexity = jnp.exp(-jnp.sum(share * jnp.log(share + 1e-10)))
    carry = (residual - chosen, total, commitment)
    return carry, (updated, new_counts, new_sums, perplexity, dead)

  quantizers = state.codebooks.shape[0]
  inputs = (
    state.codebooks,
    state.counts,
    state.sums,
    jnp.arange(quantizers),
    jax.random.split(rng, quantizers),
  )
  carry = (x, jnp.zeros_like(x), jnp.zeros(()))
  (_, total, commitment), (books, counts, sums, perplexity, dead) = lax.scan(level, carry, inputs)
  quantized = x + lax.stop_gradient(total - x)
  commitment = commitment / (jnp.sum(levels) * frames * dim)
  aux = {"perplexity": perplexity, "dead": jnp.sum(dead, axis=-1), "restarted": dead}
  return quantized, commitment, QuantizerState(books, counts, sums), aux


def kmeans_start(
  x: Float[Array, "vectors dim"],
  num_quantizers: int,
  codebook_size: int,
  rng: Key[Array, ""],
  *,
  iterations: int = 10,
) -> QuantizerState:
  """Returns a state whose codebooks are computed by k-means on the residuals of each level.

  Centroids start at random vectors plus a little noise. If there are fewer vectors than entries,
  several centroids start at the same vector.

  Args:
    x: vectors to cluster.
    num_quantizers: number of levels.
    codebook_size: entries per level.
    rng: key for the initial centroids.
    iterations: iterations of k-means per level.
  """
  vectors, dim = x.shape
  mean_use = vectors / codebook_size

  def level(residual, key):
    pick, jitter = jax.random.split(key)
    order = jax.random.permutation(pick, vectors)
    index = order[jnp.arange(codebook_size) % vectors]
    noise = 1e-3 * jnp.std(residual) * jax.random.normal(jitter, (codebook_size, dim))
    centroids = residual[index] + noise

    def refine(_, centroids):
      codes = nearest(residual, centroids)
      counts = jax.ops.segment_sum(jnp.ones(vectors), codes, codebook_size)
      sums = jax.ops.segment_sum(residual, codes, codebook_size)
      return jnp.where(counts[:, None] > 0, sums / jnp.maximum(counts, 1.0)[:, None], centroids)

    centroids = lax.fori_loop(0, iterations, refine, centroids)
    return residual - centroids[nearest(residual, centroids)], centroids

  _, codebooks = lax.scan(level, x, jax.random.split(rng, num_quantizers))
  return quantizer_of(codebooks, mean_use)
