"""Text, tokens and Hugging Face checkpoints."""
