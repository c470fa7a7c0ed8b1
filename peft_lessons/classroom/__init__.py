"""The classroom: everything that needs a notebook."""
