"""Sensor models: each turns what rays brought back into what its camera would deliver."""
