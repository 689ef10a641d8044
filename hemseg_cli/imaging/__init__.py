"""Voxels and millimetres: DICOM series, geometry, NIfTI, resampling, normalisation."""
