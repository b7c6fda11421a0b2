"""Clips to mel-spectrogram pictures to classes."""
