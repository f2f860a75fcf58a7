"""The paper's ablations: arms as options, statistics over seeds, page and chart."""
