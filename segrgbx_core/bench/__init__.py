"""Latency, cost and start-up time of models."""
