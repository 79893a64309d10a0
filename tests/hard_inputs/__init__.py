"""Inputs that no command can take: each gets one line and an exit code, and leaves nothing."""
