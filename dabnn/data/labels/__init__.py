"""Label spaces, and the maps between them."""
