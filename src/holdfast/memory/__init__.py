"""What methods remember: buffers of examples, prototypes, parameters."""
