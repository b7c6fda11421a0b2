"""Reinforcement learning: the textbook's, and agents that choose settings knob by knob."""
