"""What is particular to text and to Hugging Face checkpoints."""
