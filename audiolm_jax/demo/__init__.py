"""The live demo: a web page that continues audio and plays it while it is sampled.

`requests` checks a request, `making` samples it piece by piece, `jobs` stores the results for a
limited time, `routes` sends them, and `page` is the user interface. Only `page` and `routes` depend
on web libraries.
"""
