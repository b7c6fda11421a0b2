"""Clips to mel-spectrogram pictures to classes.

Importing it makes saved models known to `transformers.pipeline("audio-classification")` and to
transformers' Auto classes.
"""

from audio.registration import register_when_needed

register_when_needed()
