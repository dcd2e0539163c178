"""Audio and token data: folders, manifests, token stores, in-memory readers and SeqIO.

Only `sources`, `tfds_audio`, `preprocessors`, `feature_converters`, `seqio_batches` and
`registration` import seqio and TensorFlow; only `beam_tokenization` imports Beam; only
`tokenization` imports JAX. All other modules need only numpy and soundfile.
"""
