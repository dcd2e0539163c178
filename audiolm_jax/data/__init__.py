"""Audio and token data: folders, manifests, token stores, in-memory readers and SeqIO.

Only `sources`, `tfds_audio`, `preprocessors`, `feature_converters`, `seqio_batches` and
`registration` import seqio and TensorFlow; only `beam_tokenization` imports Beam; only
`disturbances` imports SciPy and librosa. JAX is imported by `datasets`, by `tokenization`, and by
the modules that import `tokenization`. All other modules need only NumPy and libraries for audio
files.
"""
