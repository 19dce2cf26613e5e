"""What is kept of requests: the record of each, its way to the database, and the questions that are asked later.

Owns: the record and its words, the spool on disk, and `database`. It may import `limits`, `keys` and the packages
below. Whoever runs a request builds its record and hands it over; one background thread writes the spool, and another
sends it to the database.
"""
