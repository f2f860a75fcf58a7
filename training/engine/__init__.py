"""The training loop that both stages share: steps, schedule, state on disk."""
