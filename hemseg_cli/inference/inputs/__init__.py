"""The scans to predict: found in files and folders, named, read into memory and checked."""
