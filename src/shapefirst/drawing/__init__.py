"""What people look at: sheets of pictures, charts as SVG, HTML around them, numbers in words.

It imports ``measure`` for intervals and pictures. A chart more is a function in ``charts``; a page more is a
template that extends ``page.html``, beside the code that fills it.
"""
