"""Where DICOM slices come from: folder, zip, remote zip, Kaggle; downloads."""
