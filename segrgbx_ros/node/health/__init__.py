"""Why nothing comes out: counts, reasons in words, and the reports that carry them."""
