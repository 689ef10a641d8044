"""hemseg: segmentation of intracerebral hemorrhage on head CT, from DICOM to a report.

Research use only.
"""

__version__ = "0.1.0"
