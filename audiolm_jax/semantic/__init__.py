"""Semantic tokens of waveforms: log-mel front end, encoders, losses of w2v-BERT, k-means."""
