"""DICOM: one slice, a stack, a tree of series, Hounsfield units, DICOM SEG."""
