"""Pictures of studies: the numbers apart from the drawing, so that tests can check the numbers.

numbers.py computes what is shown; svg.py and png.py draw it. The page around them is server/dashboard.
"""
