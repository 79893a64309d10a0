"""What several tests use: networks, runs, files, and what they say."""
