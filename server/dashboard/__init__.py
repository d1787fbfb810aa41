"""What a study looks like: numbers, apart from them their drawing, and the page that shows them live."""
