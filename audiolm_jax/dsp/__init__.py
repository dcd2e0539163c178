"""Signal processing shared by several models: mel filter banks, short-time Fourier transforms."""
