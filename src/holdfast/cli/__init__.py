"""The command line. Nothing here imports PyTorch before a command needs it."""
