"""Several trainings or scorings compared: ablations, benchmark, speed."""
