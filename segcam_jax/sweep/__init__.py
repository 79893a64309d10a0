"""Many explanations: planned, checked before anything is written, run, stored, resumed."""
