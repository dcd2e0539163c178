"""Neural audio codec: waveform to residual vector-quantized codes and back."""
