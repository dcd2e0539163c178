"""Waveform to semantic tokens: log-mel front end, Conformer, w2v-BERT pre-training, k-means."""
