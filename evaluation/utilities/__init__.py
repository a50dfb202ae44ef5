"""What each ``--utility`` does: read the options, call the floors below, write the results.

One function per utility, of the utility's name, taking the parsed options; the table in ``main.py``
names the module. Nothing is computed here that another utility could need.
"""
