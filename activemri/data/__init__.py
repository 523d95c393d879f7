"""Scans: readers for file formats, splits by subject, phantoms; all give `Slice` records.

Start with :func:`activemri.data.sources.open_dataset`.
"""
