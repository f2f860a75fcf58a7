"""Event packets and arrays to event streams."""
