"""Documents as Markdown and as HTML pages.

`cells` and `plots` choose what is shown of a document; `svg` draws; `page` is the frame of every page.
"""
