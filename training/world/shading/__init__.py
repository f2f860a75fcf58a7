"""Light along rays: a scene indexed for rays, what they meet, and what comes back along them."""
