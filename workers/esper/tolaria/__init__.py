"""Tolaria, the trainer: one training line, its twin, the judge, checkpoints, the governor and the budget."""
