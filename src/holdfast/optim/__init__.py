"""Parts around optimizers and gradients: schedules, importance, carried state."""
