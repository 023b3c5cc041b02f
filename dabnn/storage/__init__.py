"""Write and read files so that nothing is ever half there."""
