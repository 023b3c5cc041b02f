"""A comparison as a web page with figures and scenes."""
