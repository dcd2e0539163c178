"""Signal processing that several models share: mel filter banks, short-time Fourier transforms."""
