"""Audio and token data: folders, manifests, token stores, in-memory readers and SeqIO.

seqio and TensorFlow are imported by `sources`, `preprocessors`, `feature_converters`,
`seqio_batches` and `registration` only; the other modules need numpy and soundfile.
"""
