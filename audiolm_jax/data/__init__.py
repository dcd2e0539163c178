"""Audio and token data: folders, manifests, token stores, in-memory readers and SeqIO.

seqio and TensorFlow are imported by `sources`, `tfds_audio`, `preprocessors`, `feature_converters`,
`seqio_batches` and `registration` only, Beam by `beam_tokenization`, JAX by `tokenization`; the
other modules need numpy and soundfile.
"""
