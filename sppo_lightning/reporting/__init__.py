"""A run as a page: what is on disk, read tolerantly, drawn, and rendered by one template."""
