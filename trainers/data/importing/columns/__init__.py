"""What the columns of a table are, by their names and by what a sample of their cells holds.

Here belongs what decides from names and samples. It opens no file and no database.
"""
