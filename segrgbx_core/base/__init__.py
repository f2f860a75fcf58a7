"""Records, options, errors and images that every other folder may use; torch-free."""
