"""The file formats that can be read, one file each; `registry.py` lists them."""
