"""From the YAML to settings: `document` knows every line, `readers` every type, `parse` walks the sections.

The sections come from their owners: `base` has the kernel's, the module `section` of each wing has that wing's.
"""
