"""Documents as Markdown and as HTML pages.

`tables`, `cells` and `plots` choose what is shown of a document; `svg` draws; `frame` is around every page.
"""
