"""Models by name: in the package, in folders, on the Hugging Face Hub."""
