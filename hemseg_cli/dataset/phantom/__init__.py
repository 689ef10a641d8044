"""Drawn head CTs with known truth: head, scanner, DICOM, data set."""
