"""The live demo: a page that continues sound, and plays it while it is being made.

From request to sound: `requests` checks what is asked, `making` makes it piece by piece, `jobs`
keeps what was made for a while, `routes` sends it, `page` is what people see. Only `page` and
`routes` know the web.
"""
