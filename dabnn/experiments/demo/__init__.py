"""The demo on toy street scenes."""
