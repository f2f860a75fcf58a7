"""What is needed to make a SegRGB-X checkpoint; runs from a checkout, is never installed."""
