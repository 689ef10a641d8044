"""DICOM to NIfTI."""
