"""A simulated world for the real kernel and its parts: seconds cost nothing, and a seed decides what fails."""
