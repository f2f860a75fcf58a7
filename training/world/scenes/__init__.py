"""Random scenes: streets and rooms, with what stands, moves and shines in them."""
