"""Neural audio codecs: waveform to residual vector-quantized codes and back."""
