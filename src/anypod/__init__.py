"""anypod."""
