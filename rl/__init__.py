"""Agents that choose settings, knob by knob."""
