"""What light and heat meet: materials, patterns, the climate and the street's ground plan."""
