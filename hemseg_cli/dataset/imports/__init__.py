"""Import labelled NIfTI scans of other layouts into a data set: one module per layout."""
