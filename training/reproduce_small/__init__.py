"""The paper's experiment in small, from scenes to scores and figures."""
