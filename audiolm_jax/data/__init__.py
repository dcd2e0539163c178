"""Audio and token data: folders, manifests, token stores, in-memory readers and SeqIO.

On import, only `sources`, `tfds_audio`, `preprocessors`, `feature_converters`, `seqio_batches` and
`registration` load SeqIO; only these and `tensorflow_setup` load TensorFlow; only
`beam_tokenization` loads Beam; and only `disturbances` loads SciPy. `datasets`, `tokenization` and
the modules that import `tokenization` load JAX. All other modules load only NumPy and libraries for
audio files.
"""
