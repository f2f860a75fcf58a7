"""Label spaces, class tables, metrics and overlays; torch-free."""
