"""Pairing of RGB and X by time stamp, in integer nanoseconds; torch-free."""
