"""What each ``--utility`` does: read the options, call the floors below, write the results.

One function per utility, of the utility's name, taking the parsed options; the table in ``main.py``
names the module. What several of them need stands in ``common.py``.
"""
