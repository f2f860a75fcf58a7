"""Demo, player, soak test and timing around the live node."""
