"""Replay and evaluation of recordings, without DDS."""
