"""Methods, one file each, by family."""
